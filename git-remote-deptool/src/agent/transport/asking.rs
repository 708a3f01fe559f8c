//! Finds out from `/proc` whether a program may be asking the operator something.

use std::{fs, path::Path};

/// Whether the process `pid` or a descendant of it has the terminal open, or is an askpass program. True if there is no
/// `/proc`.
pub fn is_asking(pid: u32) -> bool {
    if !Path::new("/proc/self/fd").exists() {
        return true;
    }
    let mut todo = vec![pid.to_string()];
    while let Some(pid) = todo.pop() {
        let process = Path::new("/proc").join(&pid);
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().filter_map(Result::ok);
        let has_terminal =
            files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file == Path::new("/dev/tty"));
        let is_askpass = fs::read_to_string(process.join("comm")).is_ok_and(|name| name.contains("askpass"));
        if has_terminal || is_askpass {
            return true;
        }
        let threads = fs::read_dir(process.join("task")).into_iter().flatten().filter_map(Result::ok);
        for children in threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok()) {
            todo.extend(children.split_whitespace().map(str::to_owned));
        }
    }
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_program_without_a_terminal_asks_nothing_and_an_askpass_below_it_does() {
        let mut quiet = Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(!is_asking(quiet.id()));
        quiet.kill().unwrap();
        quiet.wait().unwrap();

        let dir = tempfile::tempdir().unwrap();
        let askpass = dir.path().join("my-askpass");
        fs::copy("/bin/sleep", &askpass).unwrap();
        let script = "\"$0\" 1000 & wait";
        let mut parent = Command::new("sh").args(["-c", script]).arg(&askpass).stdin(Stdio::null()).spawn().unwrap();
        while !is_asking(parent.id()) {
            std::thread::yield_now();
            assert!(parent.try_wait().unwrap().is_none());
        }
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", parent.id())).unwrap();
        Command::new("kill").args(children.split_whitespace()).status().unwrap();
        parent.wait().unwrap();
    }
}
