//! A host has its own files and nothing of another host, as Git itself reads its store. The same holds for those who
//! fetch from it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use deptool_tests::is_quick;
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::seen::at_rest;

struct World<'a> {
    sandbox: &'a Sandbox,
    repo: Repo<'a>,
}

impl World<'_> {
    fn git(&self, dir: &Path, args: &[&str], input: &str) -> String {
        let git = self.sandbox.command("git").arg("--git-dir").arg(dir).args(args);
        git.input(input).run().unwrap().ok().stdout()
    }

    /// All objects of a repository, with id and type.
    fn objects(&self, dir: &Path) -> BTreeSet<String> {
        let all = self.git(dir, &["cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)"], "");
        all.lines().map(str::to_owned).collect()
    }

    fn store(&self, host: &str) -> PathBuf {
        self.sandbox.root(host).join("var/lib/deptool/store")
    }

    /// The objects of a commit's history that a host may have: commits, root trees, and its own directory in each of
    /// them.
    fn own(&self, host: &str, tip: &str) -> BTreeSet<String> {
        let mut own = BTreeSet::new();
        for commit in self.repo.git(&["rev-list", tip]).ok().stdout().lines() {
            own.insert(format!("{commit} commit"));
            own.insert(format!("{} tree", self.repo.id(&format!("{commit}^{{tree}}"))));
            let format = "--format=%(objectname) %(objecttype)";
            own.extend(
                self.repo.git(&["ls-tree", "-r", "-t", format, commit, host]).ok().stdout().lines().map(str::to_owned),
            );
        }
        own
    }

    /// Asserts that `host` has no objects of other hosts, and has all objects of what it runs.
    #[track_caller]
    fn is_alone(&self, host: &str) {
        let store = self.store(host);
        let (has, own) = (self.objects(&store), self.own(host, "prod"));
        let foreign: Vec<_> = has.difference(&own).collect();
        assert!(foreign.is_empty(), "{host} has what is not its own: {foreign:?}");
        let format = "--format=%(objectname) %(objecttype)";
        let runs = self.git(&store, &["ls-tree", "-r", "-t", format, "prod", host], "");
        assert!(runs.lines().all(|line| has.contains(line)), "{host} lacks what it runs");
        self.no_secrets(&store, host);
    }

    /// Asserts that no object contains a secret of another host, whatever its type or name.
    #[track_caller]
    fn no_secrets(&self, dir: &Path, host: &str) {
        let ids: String = self
            .objects(dir)
            .iter()
            .filter_map(|line| line.strip_suffix(" blob"))
            .map(|id| format!("{id}\n"))
            .collect();
        let contents = self.git(dir, &["cat-file", "--batch"], &ids);
        let others = ["web1", "web2", "web3"].into_iter().filter(|other| *other != host);
        for other in others {
            assert!(!contents.contains(&format!("secret of {other}")), "{host} has a secret of {other}");
        }
    }

    fn push(&self, host: &str) {
        self.repo.git(&["push", "--force", host, "prod"]).ok();
    }

    fn push_all(&self, hosts: &[&str]) {
        hosts.iter().for_each(|host| self.push(host));
    }
}

#[test]
fn a_host_has_nothing_of_another_one_in_any_history() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let world = World { sandbox: &sandbox, repo: sandbox.repo("operator") };
    let repo = &world.repo;
    for host in ["web1", "web2"] {
        repo.add_root(host);
    }
    for round in 0..4 {
        for host in ["web1", "web2", "web3"] {
            repo.write(format!("{host}/app/conf"), format!("secret of {host}, {round}\n"));
            repo.write(format!("{host}/app/deep/er/{round}"), format!("secret of {host}, deep {round}\n"));
        }
        repo.write("README", format!("for all, {round}\n"));
        repo.commit(&format!("Round {round}"));
        // The other host is one deployment behind, and gets two at once.
        world.push(if round % 2 == 0 { "web1" } else { "web2" });
    }
    // Files that are not secret move from one host to the other, and back under another name. So does a whole app.
    repo.write("web1/app/public", "known to both\n");
    repo.write("web1/moving/file", "also known to both\n");
    repo.commit("Public");
    world.push_all(&["web1", "web2"]);
    for (from, to) in [("web1/app/public", "web2/app/public"), ("web1/moving", "web2/moving")] {
        repo.git(&["mv", from, to]).ok();
    }
    repo.commit("Moved");
    world.push_all(&["web2", "web1"]);
    repo.git(&["mv", "web2/app/public", "web1/app/renamed"]).ok();
    repo.commit("And back");
    world.push_all(&["web1", "web2"]);
    world.is_alone("web1");
    world.is_alone("web2");

    // Back in history, and forward again through a merge with work on the other host.
    repo.git(&["push", "--force", "web1", "prod~3:prod"]).ok();
    repo.git(&["checkout", "-q", "-b", "side", "prod~2"]).ok();
    repo.write("web2/app/side", "secret of web2, on the side\n");
    repo.commit("On the side");
    repo.git(&["checkout", "-q", "prod"]).ok();
    repo.git(&["merge", "-q", "-m", "Merge", "side"]).ok();
    world.push_all(&["web1", "web2"]);
    world.is_alone("web1");
    world.is_alone("web2");

    // Enough packs that the next deployment combines them.
    let objects = world.objects(&world.store("web2"));
    let format = world.store("web2").join("objects/pack/pack");
    for line in objects.iter().take(52) {
        let (id, _) = line.split_once(' ').unwrap();
        let name =
            world.git(&world.store("web2"), &["pack-objects", "-q", format.to_str().unwrap()], &format!("{id}\n"));
        std::fs::write(format.with_file_name(format!("pack-{}.promisor", name.trim())), "").unwrap();
    }
    repo.write("web2/app/conf", "secret of web2, again\n");
    let last = repo.commit("Many packs");
    world.push("web2");
    world.is_alone("web2");
    let left = std::fs::read_dir(world.store("web2").join("objects/pack")).unwrap();
    assert!(left.count() < 20, "it was repacked");
    at_rest(&sandbox, "web2", Some(&last));

    // An operator without any knowledge who asks one host learns nothing about the others.
    let stranger = sandbox.repo("stranger");
    stranger.add_root("web2");
    stranger.git(&["fetch", "web2"]).ok();
    assert_eq!(stranger.git(&["ls-tree", "--name-only", "web2/prod"]).ok().stdout(), "web2\n");
    world.no_secrets(&stranger.dir.join(".git"), "web2");
    stranger.git(&["fsck", "--strict", "--full"]).ok();
}
