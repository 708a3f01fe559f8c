//! Git's `option` lines.
//!
//! If the helper answers that an option is unsupported, Git either aborts with a message about Git itself or ignores
//! the option (`cas`). So an invalid value is accepted here, and every ref fails with the reason.

use deptool_agent::shared::{text::printable, wire::Lease};
use gix::bstr::{BStr, BString, ByteSlice};

use crate::model::options::{Atomicity, OptionError, Options, Progress, Run};

/// The answer to an `option` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The option was accepted. If its value is invalid, every ref fails.
    Ok,
    /// The option is unknown; Git continues without it.
    Unsupported,
}

impl Options {
    /// Process an `option` line.
    pub fn set(&mut self, name: &BStr, value: &BStr) -> Reply {
        match self.try_set(name, value) {
            Ok(reply) => reply,
            Err(error) => {
                // The first error is reported.
                self.refusal.get_or_insert(error);
                Reply::Ok
            }
        }
    }

    fn try_set(&mut self, name: &BStr, value: &BStr) -> Result<Reply, OptionError> {
        match name.as_bytes() {
            b"verbosity" => self.verbosity = number(name, value)?,
            b"progress" => self.progress = if boolean(name, value)? { Progress::Shown } else { Progress::Hidden },
            b"dry-run" => self.run = if boolean(name, value)? { Run::Dry } else { Run::Real },
            b"atomic" => {
                self.atomicity = if boolean(name, value)? { Atomicity::AllOrNothing } else { Atomicity::PerHost };
            }
            b"cas" => {
                let (dst, expected) = cas(name, value)?;
                self.leases.insert(dst, expected);
            }
            b"push-option" => self.push_options.set(&unquote(name, value)?)?,
            // Only servers that store push certificates support signing. `if-asked` permits not to sign.
            b"pushcert" => match value.as_bytes() {
                b"if-asked" | b"false" => (),
                _ => return Err(OptionError::Signed),
            },
            b"cloning" => self.cloning = boolean(name, value)?,
            // Git 2.39 sends no value, later versions send "true". It permits `list` to name an object format; the
            // default is SHA-1.
            b"object-format" => match value.as_bytes() {
                b"" | b"true" | b"sha1" => (),
                _ => return Ok(Reply::Unsupported),
            },
            // Git has checked its reflogs already (`push.useForceIfIncludes`). A forced ref is marked with `+`.
            b"force-if-includes" | b"force" => {
                boolean(name, value)?;
            }
            _ => return Ok(Reply::Unsupported),
        }
        Ok(Reply::Ok)
    }
}

fn malformed(name: &BStr) -> OptionError {
    OptionError::Malformed(printable(name))
}

fn number(name: &BStr, value: &BStr) -> Result<u32, OptionError> {
    // Git sends a negative number for `-q -q`.
    let number: i32 = value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(|| malformed(name))?;
    Ok(number.try_into().unwrap_or(0))
}

fn boolean(name: &BStr, value: &BStr) -> Result<bool, OptionError> {
    match value.as_bytes() {
        b"true" => Ok(true),
        b"false" => Ok(false),
        _ => Err(malformed(name)),
    }
}

/// Undo Git's C-style quoting, which it applies only if necessary.
fn unquote(name: &BStr, value: &BStr) -> Result<BString, OptionError> {
    let (text, used) = gix::quote::ansi_c::undo(value).map_err(|_| malformed(name))?;
    if used != value.len() {
        return Err(malformed(name));
    }
    Ok(text.into_owned())
}

/// `<ref>:<id>`. An id of all zeros means that the ref must not exist.
fn cas(name: &BStr, value: &BStr) -> Result<(BString, Lease), OptionError> {
    let value = unquote(name, value)?;
    let (dst, hex) = value.rsplit_once_str(":").ok_or_else(|| malformed(name))?;
    let id: deptool_agent::shared::id::CommitId =
        hex.to_str().ok().and_then(|hex| hex.parse().ok()).ok_or_else(|| malformed(name))?;
    let expected = if id.0.is_null() { Lease::Absent } else { Lease::At(id) };
    Ok((dst.into(), expected))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::offer::HostCheck;

    fn with(lines: &[(&str, &str)]) -> Options {
        let mut options = Options::default();
        for (name, value) in lines {
            assert_eq!(options.set((*name).into(), (*value).into()), Reply::Ok, "{name} {value}");
        }
        options
    }

    #[test]
    fn what_git_sends_is_kept() {
        let options = with(&[
            ("verbosity", "2"),
            ("progress", "true"),
            ("dry-run", "true"),
            ("atomic", "true"),
            ("push-option", "check"),
            ("push-option", "\"waves=1,\\062\""),
            ("pushcert", "if-asked"),
            ("object-format", ""),
            ("force-if-includes", "true"),
        ]);
        assert_eq!(options.verbosity, 2);
        assert_eq!(options.progress, Progress::Shown);
        assert_eq!(options.run, Run::Dry);
        assert_eq!(options.atomicity, Atomicity::AllOrNothing);
        assert_eq!(options.push_options.host_check, HostCheck::Always);
        assert_eq!(options.push_options.waves.ends(5), [1, 2, 5]);
        assert_eq!(options.refusal(), None);
    }

    #[test]
    fn zeros_in_a_lease_mean_absent() {
        let hex = "0123456789abcdef0123456789abcdef01234567";
        let zeros = "0".repeat(40);
        let options = with(&[("cas", &format!("refs/heads/a:{hex}")), ("cas", &format!("refs/heads/b:{zeros}"))]);
        assert_eq!(options.leases[BStr::new("refs/heads/a")], Lease::At(hex.parse().unwrap()));
        assert_eq!(options.leases[BStr::new("refs/heads/b")], Lease::Absent);
    }

    #[test]
    fn a_bad_value_is_accepted_and_refuses_the_push() {
        for (name, value, text) in [
            ("push-option", "wave=2", "unknown push option 'wave'"),
            ("push-option", "\"wav", "malformed value of option 'push-option'"),
            ("push-option", "\"check\"x", "malformed value of option 'push-option'"),
            ("cas", "refs/heads/a", "malformed value of option 'cas'"),
            ("cas", "refs/heads/a:12", "malformed value of option 'cas'"),
            ("pushcert", "true", "signed pushes are not supported"),
            ("dry-run", "maybe", "malformed value of option 'dry-run'"),
        ] {
            assert_eq!(with(&[(name, value)]).refusal().unwrap().to_string(), text);
        }
    }

    #[test]
    fn all_or_nothing_leaves_nobody_out() {
        let options = with(&[("push-option", "skip-unreachable"), ("atomic", "true")]);
        assert_eq!(options.refusal(), Some(OptionError::AtomicWithoutSome));
    }

    #[test]
    fn an_unknown_option_is_left_to_git() {
        let mut options = Options::default();
        for name in ["depth", "filter", "check-connectivity", "followtags", "family", ""] {
            assert_eq!(options.set(name.into(), "true".into()), Reply::Unsupported, "{name}");
        }
        assert_eq!(options, Options::default());
    }

    #[test]
    fn another_object_format_is_unsupported() {
        assert_eq!(Options::default().set("object-format".into(), "sha256".into()), Reply::Unsupported);
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic(
            name in "(verbosity|progress|dry-run|atomic|cas|push-option|pushcert|cloning|object-format|force|force-if-includes)",
            value in any::<Vec<u8>>(),
        ) {
            let mut options = Options::default();
            options.set(name.as_str().into(), value.as_bstr());
        }
    }
}
