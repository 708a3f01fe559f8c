//! Everything that does not need root or a service manager works without them: on a machine without systemd, for a user
//! who is not root.

use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use deptool_tests::build;
use deptool_tests::process::{Cmd, find_program};
use deptool_tests::sandbox::gits;

/// A user id that owns nothing else.
const NOBODY: u32 = 64_998;
/// The only programs on PATH besides Git and ours.
const PROGRAMS: [&str; 2] = ["sh", "mkdir"];

/// The main workflow of an operator with a local root.
const SCRIPT: &str = r#"
git init -q -b prod operator && cd operator
git config user.name Ada && git config user.email ada@example.org
git deptool init >&2
git deptool add-host web1 --url "deptool::$HOME/root" >&2
mkdir -p web1/app/systemd web1/app/sysusers
echo one >web1/app/file
echo '{"symlinks": {"/etc/app.conf": "file"}, "systemd": {"units_enabled": ["app.service"]}}' >web1/app/manifest.json
printf '[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' >web1/app/systemd/app.service
echo 'u app' >web1/app/sysusers/app.conf
git add web1 && git commit -qm One
git deptool plan >&2
git push web1 prod
read -r line <../root/var/lib/deptool/apps/app/current/file; echo "$line"
read -r line <../root/etc/systemd/system/app.service; echo "$line"
[ -L ../root/etc/app.conf ]
echo two >web1/app/file && git commit -qam Two
git deptool deploy --yes >&2
read -r line <../root/var/lib/deptool/apps/app/current/file; echo "$line"
git fetch -q web1 && git deptool status >&2 && git deptool verify >&2
git push -q -f web1 prod~1:prod
read -r line <../root/var/lib/deptool/apps/app/current/file; echo "$line"
git push -q web1 :prod
[ -e ../root/etc ] || echo gone
"#;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}

#[test]
fn all_of_it_works_without_root_and_without_systemd() {
    for git in gits() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        // Other users may have no access to the build directory.
        for path in ["bin/git-remote-deptool", "bin/git-deptool"] {
            copy(&build::local().join(path), &at(path));
        }
        for agent in std::fs::read_dir(build::local().join("lib/deptool/agents")).unwrap() {
            let agent = agent.unwrap();
            copy(&agent.path(), &at("lib/deptool/agents").join(agent.file_name()));
        }
        symlink(&git, at("bin/git")).unwrap();
        for program in PROGRAMS {
            symlink(find_program(program).unwrap(), at("bin").join(program)).unwrap();
        }
        std::fs::create_dir_all(at("home/root")).unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Cmd::new(find_program("sh").unwrap());
        if rustix::process::geteuid().is_root() {
            for path in ["home", "home/root"] {
                chown(at(path), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
            command = Cmd::new(find_program("setpriv").unwrap()).args(ids).arg(find_program("sh").unwrap());
        }
        let run = command.args(["-euc", SCRIPT]).dir(at("home")).env_clear();
        let run = run.env("PATH", at("bin")).env("HOME", at("home")).env("GIT_CONFIG_NOSYSTEM", "1").run().unwrap();
        let said = run.ok().stdout();
        assert_eq!(said.lines().collect::<Vec<_>>(), ["one", "[Service]", "two", "one", "gone"], "{said}");
    }
}
