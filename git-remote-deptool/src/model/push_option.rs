//! Push options (`git push -o`): parsed from text. Pure.

use std::{num::NonZeroUsize, time::Duration};

use deptool_agent::shared::{
    manifest::Window,
    text::printable,
    wire::{InTheWay, Repair},
};

use super::offer::HostCheck;

/// The default time of `-o confirm`.
const CONFIRM: Confirm = Confirm(30);
/// The most waves that are accepted.
const MOST_WAVES: usize = 100;

/// The push options. If an option is repeated, the last value counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushOptions {
    /// `check`: ask hosts what they run before the plan is made.
    pub host_check: HostCheck,
    /// `waves=1,25%,100%`: the sizes of the waves.
    pub waves: Waves,
    /// `lock-wait=30s`: how long to wait for a busy host; without it, not at all.
    pub lock_wait: Option<Duration>,
    /// `skip-unreachable`: whether unreachable hosts are skipped.
    pub unreachable: Unreachable,
    /// `no-atomic`: one failure does not undo the others, whatever the cluster's file says.
    pub no_atomic: bool,
    /// `plan=<digest>`: do nothing if the plan has another digest. See [`crate::plan::digest`].
    pub plan: Option<String>,
    /// `repair`: put right all drift on the hosts, and deploy to hosts that already run the commit, too.
    pub repair: Repair,
    /// `take-over`: take over files that no deployment put there.
    pub in_the_way: InTheWay,
    /// `confirm=30s`. This overrides the configuration.
    pub confirm: Option<Confirm>,
    /// `allow-plain`: deploy private keys and passwords in plain text.
    pub plain: PlainText,
}

/// Whether private keys and passwords may be deployed in plain text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PlainText {
    #[default]
    Refused,
    Allowed,
}

/// What an unreachable host means for the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unreachable {
    /// No host is deployed to.
    #[default]
    Fails,
    /// It is skipped.
    IsSkipped,
}

/// The time in seconds within which the host must be reached again after its activation. 0 turns this off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirm(pub u16);

/// For each wave, how many hosts have been deployed to at its end. The rest is in the last wave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waves(Vec<Until>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Hosts(NonZeroUsize),
    /// 1 to 100.
    Percent(usize),
}

/// Why a push option is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushOptionError {
    #[error("unknown push option '{0}'")]
    Unknown(String),
    #[error("push option '{0}' takes no value")]
    NoValue(&'static str),
    #[error("push option '{name}' is written as '{name}={example}'")]
    Value { name: &'static str, example: &'static str },
    #[error("push option 'waves' is written as 'waves=1,25%,100%': each reaches further than the one before")]
    Waves,
}

impl PushOptions {
    /// Parse one option.
    pub fn set(&mut self, option: &[u8]) -> Result<(), PushOptionError> {
        let unknown = |name: &[u8]| PushOptionError::Unknown(printable(name));
        let at = option.iter().position(|byte| *byte == b'=');
        let (name, value) = match at {
            Some(at) => (&option[..at], Some(std::str::from_utf8(&option[at + 1..]).unwrap_or("\u{fffd}"))),
            None => (option, None),
        };
        match (name, value) {
            (b"check", None) => self.host_check = HostCheck::Always,
            (b"check", Some(_)) => return Err(PushOptionError::NoValue("check")),
            (b"repair", None) => self.repair = Repair::All,
            (b"repair", Some(_)) => return Err(PushOptionError::NoValue("repair")),
            (b"take-over", None) => self.in_the_way = InTheWay::TakenOver,
            (b"take-over", Some(_)) => return Err(PushOptionError::NoValue("take-over")),
            (b"skip-unreachable", None) => self.unreachable = Unreachable::IsSkipped,
            (b"skip-unreachable", Some(_)) => return Err(PushOptionError::NoValue("skip-unreachable")),
            (b"no-atomic", None) => self.no_atomic = true,
            (b"no-atomic", Some(_)) => return Err(PushOptionError::NoValue("no-atomic")),
            (b"allow-plain", None) => self.plain = PlainText::Allowed,
            (b"allow-plain", Some(_)) => return Err(PushOptionError::NoValue("allow-plain")),
            (b"waves", value) => self.waves = value.and_then(Waves::parse).ok_or(PushOptionError::Waves)?,
            (b"lock-wait", value) => {
                let error = PushOptionError::Value { name: "lock-wait", example: "30s" };
                self.lock_wait = Some(value.and_then(length).ok_or(error)?);
            }
            (b"plan", value) => {
                let error = PushOptionError::Value { name: "plan", example: "<digest>" };
                self.plan = Some(value.filter(|value| !value.is_empty()).ok_or(error)?.to_owned());
            }
            (b"confirm", None) => self.confirm = Some(CONFIRM),
            (b"confirm", Some(value)) => {
                let error = PushOptionError::Value { name: "confirm", example: "30s" };
                self.confirm = Some(Confirm::parse(value).ok_or(error)?);
            }
            (name, _) => return Err(unknown(name)),
        }
        Ok(())
    }
}

fn length(text: &str) -> Option<Duration> {
    Window::try_from(text.to_owned()).ok().map(|window| window.0)
}

impl Confirm {
    /// Parse a time in whole seconds, at most an hour.
    pub fn parse(text: &str) -> Option<Confirm> {
        let length = length(text).filter(|length| length.subsec_nanos() == 0)?;
        u16::try_from(length.as_secs()).ok().map(Confirm)
    }

    /// The time in the request to the host, or `None` if confirmation is off.
    pub fn seconds(self) -> Option<u16> {
        (self.0 > 0).then_some(self.0)
    }
}

impl Waves {
    fn parse(text: &str) -> Option<Waves> {
        let waves: Vec<Until> = text.split(',').map(Until::parse).collect::<Option<_>>()?;
        let grows = |pair: &[Until]| match (pair[0], pair[1]) {
            (Until::Hosts(a), Until::Hosts(b)) => a < b,
            (Until::Percent(a), Until::Percent(b)) => a < b,
            (Until::Hosts(_), Until::Percent(_)) | (Until::Percent(_), Until::Hosts(_)) => true,
        };
        (waves.len() <= MOST_WAVES && waves.windows(2).all(grows)).then_some(Waves(waves))
    }

    /// For each wave, how many of `hosts` have been deployed to at its end: increasing numbers from at least 1 to
    /// `hosts`. Percentages are rounded up. Waves that add no host are left out.
    pub fn ends(&self, hosts: usize) -> Vec<usize> {
        let mut ends = Vec::new();
        for until in &self.0 {
            let end = match until {
                Until::Hosts(count) => count.get().min(hosts),
                Until::Percent(part) => (hosts * part).div_ceil(100),
            };
            if end > ends.last().copied().unwrap_or(0) {
                ends.push(end);
            }
        }
        if ends.last().copied().unwrap_or(0) < hosts {
            ends.push(hosts);
        }
        ends
    }
}

impl Until {
    fn parse(text: &str) -> Option<Until> {
        let (digits, is_part) = text.strip_suffix('%').map_or((text, false), |digits| (digits, true));
        if !(1..=6).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number = digits.parse::<NonZeroUsize>().ok()?;
        match is_part {
            true => (number.get() <= 100).then_some(Until::Percent(number.get())),
            false => Some(Until::Hosts(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(options: &[&str]) -> Result<PushOptions, PushOptionError> {
        let mut all = PushOptions::default();
        options.iter().try_for_each(|option| all.set(option.as_bytes()))?;
        Ok(all)
    }

    fn ends(waves: &str, hosts: usize) -> Vec<usize> {
        Waves::parse(waves).unwrap().ends(hosts)
    }

    #[test]
    fn options_are_as_in_the_manual() {
        let options = set(&["check", "waves=1,25%,100%", "lock-wait=1.5min", "skip-unreachable", "confirm=45s"]);
        let options = options.unwrap();
        assert_eq!(options.host_check, HostCheck::Always);
        assert_eq!(options.waves.ends(10), [1, 3, 10]);
        assert_eq!(options.lock_wait, Some(Duration::from_secs(90)));
        assert_eq!(options.unreachable, Unreachable::IsSkipped);
        assert_eq!(options.confirm.unwrap().seconds(), Some(45));
        assert_eq!(set(&["confirm"]).unwrap().confirm.unwrap().seconds(), Some(30));
        assert_eq!(set(&["confirm", "confirm=0s"]).unwrap().confirm.unwrap().seconds(), None);
    }

    #[test]
    fn a_bad_value_says_how_it_is_written() {
        for (option, text) in [
            ("wave=2", "unknown push option 'wave'"),
            ("", "unknown push option ''"),
            ("check=1", "push option 'check' takes no value"),
            ("skip-unreachable=no", "push option 'skip-unreachable' takes no value"),
            ("lock-wait", "push option 'lock-wait' is written as 'lock-wait=30s'"),
            ("lock-wait=30", "push option 'lock-wait' is written as 'lock-wait=30s'"),
            ("lock-wait=2h", "push option 'lock-wait' is written as 'lock-wait=30s'"),
            ("confirm=1.5s", "push option 'confirm' is written as 'confirm=30s'"),
            ("confirm=-1s", "push option 'confirm' is written as 'confirm=30s'"),
        ] {
            assert_eq!(set(&[option]).unwrap_err().to_string(), text);
        }
        for waves in ["", "0", "1,", ",1", "1,1", "3,2", "50%,25%", "0%", "101%", "1 ,2", "x", "-1", "+1", "1.5", "%"] {
            assert_eq!(set(&[&format!("waves={waves}")]), Err(PushOptionError::Waves), "{waves}");
        }
        assert_eq!(set(&["waves"]), Err(PushOptionError::Waves));
    }

    #[test]
    fn waves_that_add_nobody_are_none_and_the_last_is_everybody() {
        assert_eq!(ends("1,25%,100%", 500), [1, 125, 500]);
        assert_eq!(ends("1,25%,100%", 4), [1, 4]);
        assert_eq!(ends("1,25%,100%", 1), [1]);
        assert_eq!(ends("2", 5), [2, 5]);
        assert_eq!(ends("10%,5", 20), [2, 5, 20]);
        assert_eq!(Waves::default().ends(3), [3]);
    }

    proptest! {
        #[test]
        fn waves_always_grow_to_everybody(text in "([0-9]{1,3}%?,){0,4}[0-9]{1,3}%?", hosts in 1usize..1000) {
            if let Some(waves) = Waves::parse(&text) {
                let ends = waves.ends(hosts);
                prop_assert!(ends[0] >= 1 && ends.windows(2).all(|pair| pair[0] < pair[1]), "{ends:?}");
                prop_assert_eq!(ends.last(), Some(&hosts));
            }
        }

        #[test]
        fn no_option_makes_it_panic(option in any::<Vec<u8>>(), value in any::<String>()) {
            let mut options = PushOptions::default();
            let _ = options.set(&option);
            for name in ["check", "waves", "lock-wait", "skip-unreachable", "confirm"] {
                let _ = options.set(format!("{name}={value}").as_bytes());
            }
        }
    }
}
