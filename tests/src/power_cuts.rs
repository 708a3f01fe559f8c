//! Power cuts of a virtual machine in the middle of deployments, and a look at it from outside after it has booted.
//!
//! Unlike the sweeps, this is a whole machine: its kernel loses what it had not written, systemd starts from what is on
//! the disk, and the unit that recovers is the only one that knows of the deployment.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::vm::{NAME, Vm};
use crate::process::Run;
use crate::sandbox::{Repo, Sandbox};
use crate::secrets::encrypt;

/// Prints everything that a deployment changes here, as it is on the machine, and what no deployment may leave behind.
const VIEW: &str = r#"
cd /var/lib/deptool
echo commit $(cat store/refs/heads/prod)
echo word $(cat apps/web/current/word), link $(cat /etc/nginx/conf.d/web.conf), secret $(cat /run/deptool/secrets/web/key)
for unit in slow odd even; do
    echo $unit $(systemctl is-active $unit.service) $(systemctl is-enabled $unit.service 2>&1) $(cat /run/web-$unit 2>&1)
done
echo names $(cd /etc/web && ls)
echo left $(find /etc /var/lib/deptool -name '*.deptool-*' -o -name '*.new' -o -name 'deptool-recover*' -o -path '*/state/journal' -size +0)
"#;

/// A machine, and an operator who deploys versions to it that differ in everything.
pub struct PowerCuts<'a> {
    vm: &'a Vm,
    operator: Repo<'a>,
    recipient: String,
    /// What is deployed.
    version: u32,
    /// How long a deployment takes.
    takes: Duration,
}

/// What a machine ran after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    Old,
    New,
}

/// One power cut.
#[derive(Debug)]
pub struct Cut {
    pub after: Duration,
    pub ran: Ran,
    /// Whether the operator was told that the deployment is done.
    pub was_told: bool,
    /// What the agent said at boot.
    pub recovered: String,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = if self.was_told { ", told before" } else { "" };
        write!(f, "cut after {:.1} s: {:?}{told}; {}", self.after.as_secs_f64(), self.ran, self.recovered)
    }
}

impl<'a> PowerCuts<'a> {
    /// Deploys a first version, to see how long that takes.
    pub fn begin(vm: &'a Vm, sandbox: &'a Sandbox) -> Result<PowerCuts<'a>> {
        let operator = sandbox.repo("cuts");
        operator.add_remote(NAME, &format!("deptool::{NAME}"));
        operator.write(format!("{NAME}/web/word"), "before secrets");
        operator.commit("Without secrets");
        push(&operator)?;
        let recipient = vm.sh("sed -n 's/^# public key: //p' /var/lib/deptool/state/identity");
        let mut cuts = PowerCuts { vm, operator, recipient, version: 0, takes: Duration::ZERO };
        cuts.version = 1;
        cuts.write(1);
        cuts.takes = push(&cuts.operator)?.took;
        cuts.runs(1)?;
        Ok(cuts)
    }

    /// Starts over, on a machine that may be in any state.
    pub fn again(mut self) -> Result<PowerCuts<'a>> {
        self.vm.boot()?;
        self.version += 1;
        self.write(self.version);
        self.operator.command(&["push", "-o", "repair", NAME, "prod"]).check()?;
        Ok(self)
    }

    /// Makes and commits a version.
    fn write(&self, version: u32) {
        let (is, is_not) = if version % 2 == 1 { ("odd", "even") } else { ("even", "odd") };
        let write = |path: &str, content: &[u8]| self.operator.write(format!("{NAME}/web/{path}"), content);
        let unit = |name: &str, before: &str| {
            // systemd reads a file in the tree, and the shell reads another one below it.
            let start = format!(
                "ExecStart=/bin/sh -c 'cat /var/lib/deptool/apps/web/current/word >/run/web-{name}; exec sleep infinity'"
            );
            let unit = format!("[Service]\n{before}{start}\n[Install]\nWantedBy=multi-user.target\n# {version}\n");
            write(&format!("systemd/{name}.service"), unit.as_bytes());
        };
        unit("slow", "ExecStartPre=/bin/sleep 2\n");
        unit(is, "");
        let gone = self.operator.dir.join(format!("{NAME}/web/systemd/{is_not}.service"));
        if gone.exists() {
            self.operator.remove(gone);
        }
        write("word", version.to_string().as_bytes());
        write("web.conf", format!("# {version}\n").as_bytes());
        write("secrets/key.age", &encrypt(&self.recipient, format!("secret {version}")));
        let manifest = format!(
            r#"{{"systemd": {{"units_enabled": ["slow.service", "{is}.service"]}},
                 "symlinks": {{"/etc/nginx/conf.d/web.conf": "web.conf", "/etc/web/{is}-{version}": "word"}}}}"#
        );
        write("manifest.json", manifest.as_bytes());
        self.operator.commit(&format!("Version {version}"));
    }

    /// Cuts the power when this part of a deployment's usual time has passed, boots, and checks that the machine is
    /// exactly in the old state or in the new one.
    pub fn cut(&mut self, part: f64) -> Result<Cut> {
        let (old, new) = (self.version, self.version + 1);
        self.write(new);
        let after = self.takes.mul_f64(part);
        let began = Instant::now();
        let going = self.operator.command(&["push", NAME, "prod"]).timeout(Duration::from_secs(300)).start()?;
        std::thread::sleep(after.saturating_sub(began.elapsed()));
        self.vm.cut_power();
        let was_told = going.wait()?.success();
        self.vm.boot()?;
        let ran = self.ran(old, new)?;
        if was_told && ran == Ran::Old {
            bail!("the operator was told that it is deployed, and the old version runs");
        }
        let recovered = self.recovered();
        self.operator.git(&["fetch", NAME]);
        let verify = self.operator.git(&["deptool", "verify", NAME]);
        ensure!(verify.success(), "after the boot: {verify}");
        push(&self.operator).context("the next push")?;
        self.version = new;
        self.runs(new).context("after the next push")?;
        Ok(Cut { after, ran, was_told, recovered })
    }

    fn ran(&self, old: u32, new: u32) -> Result<Ran> {
        let Err(not_old) = self.runs_commit(old, "HEAD^") else { return Ok(Ran::Old) };
        let Err(not_new) = self.runs_commit(new, "HEAD") else { return Ok(Ran::New) };
        bail!("neither the old version ({not_old:#}) nor the new one ({not_new:#})");
    }

    fn runs(&self, version: u32) -> Result<()> {
        self.runs_commit(version, "HEAD")
    }

    fn runs_commit(&self, version: u32, commit: &str) -> Result<()> {
        let (is, is_not) = if version % 2 == 1 { ("odd", "even") } else { ("even", "odd") };
        let view = self.vm.sh(VIEW);
        let mut lines = vec![
            format!("commit {}", self.operator.id(commit)),
            format!("word {version}, link # {version}, secret secret {version}"),
            format!("slow active enabled {version}"),
            format!("{is} active enabled {version}"),
            format!("names {is}-{version}"),
            "left".to_owned(),
        ];
        lines.retain(|line| !view.lines().any(|seen| seen == line));
        ensure!(lines.is_empty(), "'{}' is not in\n{view}", lines.join("', '"));
        let gone = format!("{is_not} inactive");
        ensure!(view.lines().any(|line| line.starts_with(&gone)), "'{gone}' is not in\n{view}");
        Ok(())
    }

    /// What the unit that recovers has said at this boot.
    fn recovered(&self) -> String {
        let said = self.vm.sh("journalctl -b -o cat -u 'deptool-*' | grep ^deptool-agent || true");
        if said.is_empty() { "nothing to recover".to_owned() } else { said.replace('\n', "; ") }
    }
}

fn push(operator: &Repo<'_>) -> Result<Run> {
    operator.command(&["push", NAME, "prod"]).timeout(Duration::from_secs(300)).check()
}
