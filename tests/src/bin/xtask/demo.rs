//! `cargo xtask demo`: the main job on a local root, with real commands, and a check after each.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use deptool_tests::build;
use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox, default_git};

use crate::dist;

const CURRENT: &str = "/var/lib/deptool/apps/web/current";

const SITE: &str = "<h1>Hello</h1>\n";
const SITE_2: &str = "<h1>Hello, world</h1>\n";
const SITE_BEN: &str = "<h1>Hello from Ben</h1>\n";
const MANIFEST: &str = r#"{
  "systemd": {"units_enabled": ["backup.timer"]},
  "symlinks": {"/etc/web.conf": "web.conf"}
}
"#;
const CONF: &str = "listen 127.0.0.1:8080\nroot /var/lib/deptool/apps/web/current/site\n";
const ZONE: &str = "web1 A 192.0.2.1\n";
const TIMER: &str = "[Timer]\nOnCalendar=daily\n\n[Install]\nWantedBy=timers.target\n";
const SERVICE: &str = "[Service]\nType=oneshot\nExecStart=cp -a /var/lib/web /var/backups\n";

/// The stage: two operators, the repository that they share, and the root directories of two hosts.
struct Demo {
    sandbox: Sandbox,
    bold: bool,
}

pub fn run() -> Result<()> {
    println!("Building everything into target/dist (minutes at the first time) ...");
    let prefix = dist::in_target()?;
    let dir = build::target_dir()?.join("demo");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir)?;
    let sandbox = Sandbox::at(&dir, &default_git(), &prefix);
    let demo = Demo { sandbox, bold: std::io::stdout().is_terminal() };
    demo.set_up()?;
    let ada = demo.sandbox.repo_at(dir.join("ada"));
    demo.first_deployment(&ada)?;
    demo.change(&ada)?;
    demo.stale(&ada)?;
    demo.going_back(&ada)?;
    demo.removal(&ada)?;
    demo.say(&format!("That was it. All of it is in {}, to look at.", dir.display()));
    Ok(())
}

impl Demo {
    fn set_up(&self) -> Result<()> {
        self.say(
            "The configuration: a directory per host, below it one per app. Ada and Ben share it in a repository.",
        );
        let top = self.sandbox.repo_at(self.sandbox.dir());
        self.ok(&top, "git init --quiet --bare --initial-branch prod shared.git")?;
        self.ok(&top, "git clone --quiet shared.git ada")?;
        let ada = self.sandbox.repo_at(self.sandbox.dir().join("ada"));
        self.write(&ada, "web1/web/site/index.html", SITE)?;
        self.write(&ada, "web1/web/web.conf", CONF)?;
        self.write(&ada, "web1/web/systemd/backup.service", SERVICE)?;
        self.write(&ada, "web1/web/systemd/backup.timer", TIMER)?;
        self.write(&ada, "web1/web/manifest.json", MANIFEST)?;
        self.write(&ada, "ns1/dns/zone", ZONE)?;
        self.ok(&ada, "git add . && git commit --quiet -m 'Serve a page' && git push --quiet origin prod")?;

        self.say("The hosts. Here they are directories; without --url they would be machines that ssh reaches.");
        self.ok(&ada, "git deptool init --quiet")?;
        for host in ["web1", "ns1"] {
            let url = format!("deptool::{}", self.sandbox.root(host).display());
            self.ok(&ada, &format!("git deptool add-host --quiet --url {url} {host}"))?;
        }
        Ok(())
    }

    fn first_deployment(&self, ada: &Repo<'_>) -> Result<()> {
        self.say("What would be done? This connects to nothing and changes nothing.");
        self.ok(ada, "git deptool plan")?;
        ensure!(self.sandbox.tree("web1").is_empty(), "the plan made something");

        self.say("The first deployment. `git deptool deploy` would show the plan again, and ask.");
        self.ok(ada, "git push cluster")?;
        self.runs(SITE)?;
        ensure!(self.sandbox.read("web1", "/etc/web.conf") == CONF.as_bytes(), "the link does not lead to web.conf");
        ensure!(self.sandbox.exists("web1", "/etc/systemd/system/backup.timer"), "the unit is missing");
        self.say("Where each file went:");
        self.ok(
            ada,
            "cd ../roots/web1 && find etc var \\( -type f -o -type l \\) -printf '%p %l\\n' | grep -v /store/ | sort",
        )
    }

    fn change(&self, ada: &Repo<'_>) -> Result<()> {
        self.say("A change. The plan is made from the remote-tracking branches, as `git diff` is; ns1 is left alone.");
        self.write(ada, "web1/web/site/index.html", SITE_2)?;
        self.ok(ada, "git commit --quiet -am 'Greet the world' && git push --quiet origin prod")?;
        self.ok(ada, "git diff --stat web1/prod prod -- web1")?;
        self.ok(ada, "git deptool deploy --yes")?;
        self.runs(SITE_2)?;
        self.ok(ada, "git deptool status")?;
        self.say("Pushed again, there is nothing to do. That takes no connection.");
        self.ok(ada, "git push cluster")
    }

    fn stale(&self, ada: &Repo<'_>) -> Result<()> {
        self.say("Meanwhile, Ben deploys from his own clone.");
        let top = self.sandbox.repo_at(self.sandbox.dir());
        self.ok(&top, "git clone --quiet shared.git ben")?;
        let ben = self.sandbox.repo_at(self.sandbox.dir().join("ben"));
        self.ok(&ben, "git config user.name 'Ben Operator' && git config user.email ben@example.org")?;
        self.ok(&ben, &format!("git remote add web1 deptool::{}", self.sandbox.root("web1").display()))?;
        self.ok(&ben, "git fetch --quiet web1")?;
        self.write(&ben, "web1/web/site/index.html", SITE_BEN)?;
        self.ok(
            &ben,
            "git commit --quiet -am 'Greet from Ben' && git push --quiet origin prod && git push --quiet web1 prod",
        )?;
        self.runs(SITE_BEN)?;

        self.say(
            "Ada does not know. Her plan was made from what she last saw: the host refuses it, nothing is changed.",
        );
        self.write(ada, "web1/web/web.conf", &format!("{CONF}gzip on\n"))?;
        self.ok(ada, "git commit --quiet -am 'Compress'")?;
        let refused = self.fails(ada, "git push web1 prod")?;
        ensure!(refused.stdout().contains("[rejected]"), "the push was not rejected, but failed otherwise");
        self.runs(SITE_BEN)?;

        self.say("So she looks, and puts her change on top.");
        self.ok(ada, "git fetch web1")?;
        self.ok(ada, "git log --oneline prod..web1/prod")?;
        self.ok(ada, "git pull --quiet --rebase origin prod && git push --quiet origin prod")?;
        self.ok(ada, "git push web1 prod")?;
        self.runs(SITE_BEN)?;
        ensure!(self.sandbox.read("web1", "/etc/web.conf").ends_with(b"gzip on\n"), "Ada's change is not there");
        Ok(())
    }

    fn going_back(&self, ada: &Repo<'_>) -> Result<()> {
        self.say(
            "Compressing was a mistake: go back to what ran before. `git push -f web1 prod~1:prod` does the same.",
        );
        self.ok(ada, "git deptool rollback --yes web1")?;
        self.runs(SITE_BEN)?;
        ensure!(self.sandbox.read("web1", "/etc/web.conf") == CONF.as_bytes(), "web.conf is not the old one");
        self.ok(ada, "git deptool log --oneline")
    }

    fn removal(&self, ada: &Repo<'_>) -> Result<()> {
        self.say("Remove everything that was ever deployed there.");
        self.ok(ada, "git push web1 :prod")?;
        for gone in ["/etc/web.conf", "/etc/systemd/system/backup.timer", CURRENT] {
            ensure!(!self.sandbox.exists("web1", gone), "{gone} is still there\n{}", self.sandbox.tree("web1"));
        }
        self.ok(ada, "cd ../roots/web1 && find . -path './var/lib/deptool/*' -prune -o -print | sort")
    }

    /// What is deployed, read where the host would read it.
    fn runs(&self, page: &str) -> Result<()> {
        let file = format!("{CURRENT}/site/index.html");
        let there = self.sandbox.read("web1", &file);
        ensure!(there == page.as_bytes(), "{file} on the host is '{}'", String::from_utf8_lossy(&there));
        Ok(())
    }

    fn say(&self, text: &str) {
        if self.bold { println!("\n\x1b[1m# {text}\x1b[0m") } else { println!("\n# {text}") }
    }

    /// Writes a file in front of the reader.
    fn write(&self, repo: &Repo<'_>, path: &str, content: &str) -> Result<()> {
        println!("{} cat >{path} <<END\n{content}END", prompt(&repo.dir));
        let file = repo.dir.join(path);
        fs::create_dir_all(file.parent().context("no directory")?)?;
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))
    }

    fn ok(&self, repo: &Repo<'_>, line: &str) -> Result<()> {
        let run = self.shell(repo, line)?;
        ensure!(run.success(), "the demo stops here: '{line}' should have succeeded");
        Ok(())
    }

    fn fails(&self, repo: &Repo<'_>, line: &str) -> Result<Run> {
        let run = self.shell(repo, line)?;
        ensure!(!run.success(), "the demo stops here: '{line}' should have failed");
        Ok(run)
    }

    /// Shows a command, runs it as it was shown, and shows what it said.
    fn shell(&self, repo: &Repo<'_>, line: &str) -> Result<Run> {
        println!("{} {line}", prompt(&repo.dir));
        let run = self.sandbox.command("sh").dir(&repo.dir).args(["-c", &format!("exec 2>&1; {line}")]).run()?;
        std::io::stdout().write_all(&run.stdout)?;
        Ok(run)
    }
}

fn prompt(dir: &Path) -> String {
    let name = dir.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    format!("{name}$")
}
