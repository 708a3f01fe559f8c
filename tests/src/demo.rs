//! The demo: the main workflow on local roots, with real commands, and a check after each of them.
//!
//! `cargo xtask demo` shows it. [`picture`] draws part of it for the README.

pub mod picture;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::process::Run;
use crate::sandbox::{Repo, Sandbox};

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

/// Something for the reader to see.
#[derive(Debug)]
pub enum Step {
    Explanation(String),
    /// A file is written.
    File {
        prompt: String,
        path: String,
        content: String,
    },
    /// A command was run. Its output includes standard error.
    Command {
        prompt: String,
        line: String,
        output: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Explanation(text) => writeln!(f, "\n# {text}"),
            Step::File { prompt, path, content } => writeln!(f, "{prompt} cat >{path} <<END\n{content}END"),
            Step::Command { prompt, line, output } => write!(f, "{prompt} {line}\n{output}"),
        }
    }
}

/// Two operators, the repository that they share, and the root directories of two hosts.
struct Demo<'a> {
    sandbox: &'a Sandbox,
    show: &'a mut dyn FnMut(&Step),
}

/// Runs the demo in an empty sandbox. `show` is given each step once it is done.
pub fn run(sandbox: &Sandbox, show: &mut dyn FnMut(&Step)) -> Result<()> {
    let mut demo = Demo { sandbox, show };
    demo.set_up()?;
    let ada = sandbox.repo_at(sandbox.dir().join("ada"));
    demo.first_deployment(&ada)?;
    demo.change(&ada)?;
    demo.stale(&ada)?;
    demo.going_back(&ada)?;
    demo.removal(&ada)
}

impl Demo<'_> {
    fn set_up(&mut self) -> Result<()> {
        self.explain(
            "The configuration has a directory per host, and in it one per app. Ada and Ben share it in a repository.",
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

        self.explain("The hosts. Here they are directories. Without --url, they would be machines that ssh reaches.");
        self.ok(&ada, "git deptool init --quiet")?;
        for host in ["web1", "ns1"] {
            let url = format!("deptool::{}", self.sandbox.root(host).display());
            self.ok(&ada, &format!("git deptool add-host --quiet --url {url} {host}"))?;
        }
        Ok(())
    }

    fn first_deployment(&mut self, ada: &Repo<'_>) -> Result<()> {
        self.explain("What would a deployment do? This neither connects to the hosts nor changes anything.");
        self.ok(ada, "git deptool plan")?;
        ensure!(self.sandbox.tree("web1").is_empty(), "the plan has changed the host");

        self.explain("The first deployment. `git deptool deploy` would show the plan again and ask.");
        self.ok(ada, "git push cluster")?;
        self.runs(SITE)?;
        ensure!(self.sandbox.read("web1", "/etc/web.conf") == CONF.as_bytes(), "the link does not lead to web.conf");
        ensure!(self.sandbox.exists("web1", "/etc/systemd/system/backup.timer"), "the unit is missing");
        self.explain("Where each file went:");
        self.ok(
            ada,
            "cd ../roots/web1 && find etc var \\( -type f -o -type l \\) -printf '%p %l\\n' | grep -v /store/ | sort",
        )
    }

    fn change(&mut self, ada: &Repo<'_>) -> Result<()> {
        self.explain(
            "A change of web1. Like `git diff`, the plan compares with the tracking branches; ns1 is left alone.",
        );
        self.write(ada, "web1/web/site/index.html", SITE_2)?;
        self.ok(ada, "git commit --quiet -am 'Greet the world' && git push --quiet origin prod")?;
        self.ok(ada, "git diff --stat web1/prod prod -- web1")?;
        self.ok(ada, "git deptool deploy --yes")?;
        self.runs(SITE_2)?;
        self.ok(ada, "git deptool status")?;
        self.explain("A second push has nothing to do, and does not connect.");
        self.ok(ada, "git push cluster")
    }

    fn stale(&mut self, ada: &Repo<'_>) -> Result<()> {
        self.explain("Meanwhile, Ben deploys from his own clone.");
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

        self.explain(
            "Ada does not know that. Her plan was made from an older commit, so the host refuses it. Nothing changes.",
        );
        self.write(ada, "web1/web/web.conf", &format!("{CONF}gzip on\n"))?;
        self.ok(ada, "git commit --quiet -am 'Compress'")?;
        let refused = self.fails(ada, "git push web1 prod")?;
        ensure!(refused.stdout().contains("[rejected]"), "the push was not rejected, but failed otherwise");
        self.runs(SITE_BEN)?;

        self.explain("She looks at his change and rebases hers onto it.");
        self.ok(ada, "git fetch web1")?;
        self.ok(ada, "git log --oneline prod..web1/prod")?;
        self.ok(ada, "git pull --quiet --rebase origin prod && git push --quiet origin prod")?;
        self.ok(ada, "git push web1 prod")?;
        self.runs(SITE_BEN)?;
        ensure!(self.sandbox.read("web1", "/etc/web.conf").ends_with(b"gzip on\n"), "Ada's change is not there");
        Ok(())
    }

    fn going_back(&mut self, ada: &Repo<'_>) -> Result<()> {
        self.explain(
            "Compression was a mistake: go back to what ran before. `git push -f web1 prod~1:prod` does the same.",
        );
        self.ok(ada, "git deptool rollback --yes web1")?;
        self.runs(SITE_BEN)?;
        ensure!(self.sandbox.read("web1", "/etc/web.conf") == CONF.as_bytes(), "web.conf is not the old one");
        self.ok(ada, "git deptool log --oneline")
    }

    fn removal(&mut self, ada: &Repo<'_>) -> Result<()> {
        self.explain("Remove everything that was deployed.");
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

    fn explain(&mut self, text: &str) {
        (self.show)(&Step::Explanation(text.to_owned()));
    }

    /// Writes a file.
    fn write(&mut self, repo: &Repo<'_>, path: &str, content: &str) -> Result<()> {
        let file = repo.dir.join(path);
        fs::create_dir_all(file.parent().context("no directory")?)?;
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        (self.show)(&Step::File { prompt: prompt(&repo.dir), path: path.to_owned(), content: content.to_owned() });
        Ok(())
    }

    fn ok(&mut self, repo: &Repo<'_>, line: &str) -> Result<()> {
        let run = self.shell(repo, line)?;
        ensure!(run.success(), "the demo stops here: '{line}' should have succeeded");
        Ok(())
    }

    fn fails(&mut self, repo: &Repo<'_>, line: &str) -> Result<Run> {
        let run = self.shell(repo, line)?;
        ensure!(!run.success(), "the demo stops here: '{line}' should have failed");
        Ok(run)
    }

    /// Runs a command, and shows it and its output.
    fn shell(&mut self, repo: &Repo<'_>, line: &str) -> Result<Run> {
        let run = self.sandbox.command("sh").dir(&repo.dir).args(["-c", &format!("exec 2>&1; {line}")]).run()?;
        let output = String::from_utf8_lossy(&run.stdout).into_owned();
        (self.show)(&Step::Command { prompt: prompt(&repo.dir), line: line.to_owned(), output });
        Ok(run)
    }
}

fn prompt(dir: &Path) -> String {
    let name = dir.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    format!("{name}$")
}
