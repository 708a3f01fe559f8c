//! The operator's name, address and time zone.
//!
//! gix has functions for them, which list all time zones that the computer knows, in 25 directories, while a host waits.

use std::{
    mem,
    process::{Command, Stdio},
};

use deptool_agent::shared::text::printable;
use gix::{bstr::ByteSlice, date::Time};

use super::Repo;

impl Repo {
    /// The committer that Git would use. If none is configured, as in a server's hook, the login user on this machine.
    pub fn operator(&self) -> String {
        if let Some((name, email)) = committer(&self.gix) {
            return format!("{name} <{email}>");
        }
        let output = self.git().args(["var", "GIT_COMMITTER_IDENT"]).stderr(Stdio::null()).output().ok();
        let output =
            output.filter(|output| output.status.success()).map(|output| output.stdout.to_str_lossy().into_owned());
        match output.as_deref().and_then(|output| output.split_once('>')).and_then(|(who, _)| who.split_once('<')) {
            Some((name, email)) if !cleaned(name).is_empty() => format!("{} <{}>", cleaned(name), cleaned(email)),
            Some(_) | None => {
                let login = login();
                format!("{login} <{login}@{}>", machine())
            }
        }
    }
}

/// Name and address of the configured committer without characters that Git forbids. `None` if there is no name.
pub(crate) fn committer(repo: &gix::Repository) -> Option<(String, String)> {
    let config = repo.config_snapshot();
    let first = |keys: &[&str]| {
        let value = keys.iter().filter_map(|key| config.string(*key)).find(|value| !value.is_empty())?;
        Some(cleaned(&value.to_str_lossy()))
    };
    // gix adds GIT_COMMITTER_NAME and the like as if they were configured, and EMAIL under a name of its own.
    let name = first(&["committer.name", "user.name"])?;
    let email = first(&["committer.email", "user.email", "gitoxide.user.emailFallback"])?;
    (!name.is_empty()).then_some((name, email))
}

/// A time in seconds since 1970, with the offset that the local time zone has then.
#[allow(unsafe_code)]
pub(crate) fn local_time(seconds: i64) -> Time {
    const { assert!(size_of::<libc::time_t>() == size_of::<i64>()) };
    // SAFETY: zeros are valid for all fields of `tm`. Both pointers are to values of the right size that live. Nothing changes the
    // environment variable that it reads.
    let offset = unsafe {
        let mut broken_down: libc::tm = mem::zeroed();
        libc::localtime_r((&raw const seconds).cast(), &raw mut broken_down);
        broken_down.tm_gmtoff
    };
    Time::new(seconds, i32::try_from(offset).unwrap_or_default())
}

/// Like Git's `ident.c`: without characters that have a meaning in the format, and without surrounding punctuation.
fn cleaned(text: &str) -> String {
    let is_crud = |c: char| c <= ' ' || ".,:;<>\"\\'".contains(c);
    text.trim_matches(is_crud).replace(['\n', '\r', '<', '>'], "")
}

fn login() -> String {
    let output = Command::new("id").arg("-un").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let name = output.map(|output| printable(output.stdout.trim())).unwrap_or_default();
    if name.is_empty() { format!("uid {}", rustix::process::getuid().as_raw()) } else { name }
}

fn machine() -> String {
    let name = printable(rustix::system::uname().nodename().to_bytes());
    if name.is_empty() { "localhost".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_line_without_git_s_own_signs() {
        assert_eq!([cleaned("Ada\nOperator"), cleaned(" <ada@example.org>")], ["AdaOperator", "ada@example.org"]);
        assert_eq!([cleaned("\"Ada\" O."), cleaned("a\r\nb"), cleaned(" .")], ["Ada\" O", "ab", ""]);
    }
}
