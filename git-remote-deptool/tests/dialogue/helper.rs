//! The helper that Git finds in these tests: this test program, started by a shell script (`bin/`) as the one
//! test below, with Git's stdout as descriptor 3.

use std::{
    fs::{self, File},
    io::{BufReader, Write, stdin},
    path::PathBuf,
};

use deptool_agent::shared::{name::ClusterName, wire::Lease};
use git_remote_deptool::{
    config::{HostRemote, Settings, Target, url::Address},
    model::{
        advertised::Advertised,
        batch::{Destination, PushBatch, PushCommand, Source, Tags},
        error::chain,
        offer::{self, Offer},
        options::{Atomicity, Options, Run},
        outcome::{RefOutcome, RefReport, RefUpdate},
    },
    protocol::{self, Backend, serve::End},
    repo::{Environment, Repo},
    state::Tracking,
};
use gix::bstr::ByteSlice;

#[test]
#[ignore = "this is the helper that the other tests give to Git"]
fn run_as_helper() {
    let Some(directory) = std::env::var_os("DEPTOOL_TEST_DIRECTORY") else { return };
    let arguments = std::env::var("DEPTOOL_TEST_ARGUMENTS").unwrap();
    let (remote, address) = arguments.split_once(' ').unwrap();
    std::process::exit(run(directory.into(), remote, address));
}

fn run(directory: PathBuf, remote: &str, address: &str) -> i32 {
    let repo = Repo::open(Environment::from_process().unwrap()).unwrap();
    let config = repo.gix().config_snapshot().plumbing().clone();
    let settings = Settings::read(&config, &std::env::current_dir().unwrap()).unwrap();
    let target = settings.target(remote.into(), &Address::parse(address.as_bytes()).unwrap()).unwrap();
    let mut backend = Scripted { script: Script::read(&directory), repo, settings, target, directory };
    let mut output = File::options().write(true).open("/dev/fd/3").unwrap();
    match protocol::serve(&mut BufReader::new(stdin()), &mut output, &mut backend) {
        Ok(End::Finished) => 0,
        Ok(End::HungUp) => 1,
        Err(error) => {
            eprintln!("fatal: {}", chain(&error));
            128
        }
    }
}

/// What the hosts say: lines of `<ref> <verdict> [<text>]`, `advertise <id or @target> <ref>`, `objects <path> <id>`
/// for a commit that they have from the repository there, or `unreachable`. A ref that has no line is deployed.
struct Script(Vec<Vec<String>>);

impl Script {
    fn read(directory: &std::path::Path) -> Self {
        let text = fs::read_to_string(directory.join("script")).unwrap_or_default();
        Script(text.lines().map(|line| line.splitn(3, ' ').map(str::to_owned).collect()).collect())
    }

    fn verdict(&self, dst: &str) -> (String, String) {
        let line = self.0.iter().find(|line| line[0] == dst);
        let word = |n| line.and_then(|line: &Vec<String>| line.get(n)).cloned().unwrap_or_default();
        (word(1), word(2))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("scripted")]
struct Scripting(#[source] std::io::Error);

fn failure(text: &str) -> Scripting {
    Scripting(std::io::Error::other(text.to_owned()))
}

struct Scripted {
    script: Script,
    repo: Repo,
    settings: Settings,
    target: Target,
    directory: PathBuf,
}

impl Scripted {
    fn note(&self, line: &str) {
        let mut log = File::options().append(true).create(true).open(self.directory.join("asked")).unwrap();
        writeln!(log, "{line}").unwrap();
    }

    fn host(&self) -> &HostRemote {
        match &self.target {
            Target::Host(host) => host,
            other => panic!("{other:?}"),
        }
    }

    fn push_one(&self, command: &PushCommand, options: &Options, tags: Tags) -> Result<Option<RefOutcome>, Scripting> {
        let cluster = match command.destination() {
            Destination::Branch(name) => ClusterName::parse(name).unwrap(),
            Destination::Tag(_) => {
                return Ok(Some(match tags {
                    Tags::Followed => RefOutcome::Unaffected,
                    Tags::Asked => RefOutcome::Rejected("a tag is no cluster".into()),
                }));
            }
            Destination::Guard | Destination::Other => panic!("{command:?}"),
        };
        let (verdict, text) = self.script.verdict(command.dst.to_str().unwrap());
        Ok(match verdict.as_str() {
            "" | "summary" => Some(self.deploy(command, &cluster, options)),
            "stale" => Some(RefOutcome::StaleInfo),
            "nonff" => Some(RefOutcome::NonFastForward),
            "unaffected" => Some(RefOutcome::Unaffected),
            "reject" => Some(RefOutcome::Rejected(text)),
            "forget" => None,
            "fail" => return Err(failure(&text)),
            "die" => std::process::exit(1),
            other => panic!("{other}"),
        })
    }

    fn fetch(&self, from: &str, id: &str) -> Result<(), Scripting> {
        let mut git = self.repo.git();
        git.args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=", from, id]);
        match git.status().map_err(Scripting)?.success() {
            true => Ok(()),
            false => Err(failure("git fetch")),
        }
    }

    /// As the real one does it, but for the host.
    fn deploy(&self, command: &PushCommand, cluster: &ClusterName, options: &Options) -> RefOutcome {
        let tracking = Tracking::new(&self.repo);
        let old = tracking.get(self.host(), cluster).unwrap().map(|tracked| tracked.real);
        let Source::Revision(text) = &command.src else {
            tracking.remove(self.host(), cluster).unwrap();
            return RefOutcome::Done { old, new: None, update: RefUpdate::FastForward };
        };
        let new = match self.repo.resolve(text.as_ref()) {
            Ok(new) => new,
            Err(error) => return RefOutcome::Rejected(error.to_string()),
        };
        let forced = old.is_some_and(|old| !self.repo.is_ancestor(old, new).unwrap());
        if options.run == Run::Real {
            tracking.set(self.host(), cluster, new, "deploy").unwrap();
        }
        RefOutcome::Done {
            old,
            new: Some(new),
            update: if forced { RefUpdate::Forced } else { RefUpdate::FastForward },
        }
    }
}

impl Backend for Scripted {
    type Error = Scripting;

    fn offers(&mut self, _: &Options) -> Result<Vec<Offer>, Scripting> {
        self.note("offers");
        let knowledge = Tracking::new(&self.repo).knowledge(&self.target, &self.settings).unwrap();
        Ok(offer::offers(&knowledge))
    }

    fn advertised(&mut self, _: &Options) -> Result<Vec<Advertised>, Scripting> {
        self.note("advertised");
        let mut refs = Vec::new();
        for line in &self.script.0 {
            match (line[0].as_str(), line.get(1)) {
                ("unreachable", _) => return Err(failure("unreachable")),
                ("advertise", Some(what)) => refs.push(advertised(what, &line[2])),
                ("objects", Some(from)) => self.fetch(from, &line[2])?,
                _ => (),
            }
        }
        Ok(refs)
    }

    fn push(&mut self, batch: &PushBatch, options: &Options, report: &mut RefReport) -> Result<(), Scripting> {
        for command in batch.commands() {
            self.note(&described(command, options));
        }
        let tags = batch.tags_are(self.settings.follow_tags);
        for command in batch.commands() {
            if let Some(outcome) = self.push_one(command, options, tags)? {
                report.set(command.dst.as_ref(), outcome).unwrap();
            }
        }
        Ok(())
    }

    fn finish(&mut self, _: &Options) -> Result<(), Scripting> {
        self.note("finish");
        if self.script.verdict("refs/heads/prod").0 == "summary" {
            eprintln!("summary");
        }
        Ok(())
    }
}

fn advertised(what: &str, name: &str) -> Advertised {
    match what.strip_prefix('@') {
        Some(target) => Advertised::Head(target.into()),
        None => Advertised::at(name, what.parse().unwrap()),
    }
}

/// A line for the log: what was asked, and with which options.
fn described(command: &PushCommand, options: &Options) -> String {
    let src = match &command.src {
        Source::Delete => "".into(),
        Source::Revision(text) => text.clone(),
    };
    let mut line = format!("push {src}:{}", command.dst);
    if options.run == Run::Dry {
        line.push_str(" dry-run");
    }
    if options.atomicity == Atomicity::AllOrNothing {
        line.push_str(" atomic");
    }
    for (dst, expected) in &options.leases {
        match expected {
            Lease::Absent => line.push_str(&format!(" lease={dst}:absent")),
            Lease::At(id) => line.push_str(&format!(" lease={dst}:{id}")),
        }
    }
    if options.push_options.host_check == offer::HostCheck::Always {
        line.push_str(" check");
    }
    line
}
