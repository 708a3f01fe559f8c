use super::{testing::Scratch, *};

fn resolve(repo: &Repo, text: &str) -> Result<CommitId, String> {
    repo.resolve(text.into()).map_err(|error| error.to_string())
}

#[test]
fn a_source_is_peeled_to_its_commit() {
    let scratch = Scratch::with_commits(4);
    scratch.git(&["tag", "-a", "-m", "x", "v1"]);
    scratch.git(&["tag", "-a", "-m", "x", "v2", "v1"]);
    let repo = scratch.open();
    let head = scratch.id("HEAD");
    for text in ["HEAD", "prod", "refs/heads/prod", "v1", "v2", "@", &head.to_string(), &head.short()] {
        assert_eq!(resolve(&repo, text), Ok(head), "{text}");
    }
    assert_eq!(resolve(&repo, "prod~3"), Ok(scratch.id("HEAD~3")));
    assert_eq!(resolve(&repo, ":/c1"), Ok(scratch.id("HEAD~2")));
}

#[test]
fn a_source_names_what_git_says_it_names() {
    let scratch = Scratch::with_commits(3);
    let prefix = scratch.id("HEAD").to_string()[..6].to_owned();
    for (name, commit) in [("refs/tags/prod", "HEAD~1"), ("refs/heads/a@b", "HEAD~2")] {
        scratch.git(&["update-ref", name, commit]);
    }
    scratch.git(&["update-ref", &format!("refs/heads/{prefix}"), "HEAD~2"]);
    let repo = scratch.open();
    let texts = ["prod", "heads/prod", "prod^", "a@b", "HEAD@{1}", "@{0}", "HEAD^0", "HEAD^{/c0}", "HEAD^{}", &prefix];
    for text in texts {
        assert_eq!(resolve(&repo, text), Ok(scratch.id(&format!("{text}^{{commit}}"))), "{text}");
    }
}

#[test]
fn a_source_that_is_no_commit_is_refused_by_what_it_is() {
    let scratch = Scratch::with_commits(1);
    let repo = scratch.open();
    let tree = "'HEAD:web1' is a tree; only a commit can be deployed";
    assert_eq!(resolve(&repo, "HEAD:web1"), Err(tree.to_owned()));
    assert!(resolve(&repo, "HEAD:web1/app/file").unwrap_err().contains("is a blob"));
    for text in ["nothing", "HEAD~9", "--all", "-h", "HEAD..HEAD", "^HEAD", "", " ", "\x1b[2J", "HEAD^{tree"] {
        assert!(resolve(&repo, text).unwrap_err().ends_with("does not name an object"), "{text:?}");
    }
}

#[test]
fn ancestry_is_what_git_says() {
    let scratch = Scratch::with_commits(3);
    let (old, new) = (scratch.id("HEAD~2"), scratch.id("HEAD"));
    scratch.git(&["checkout", "-q", "-b", "side", "HEAD~1"]);
    let side = scratch.commit("side");
    let repo = scratch.open();
    for (ancestor, descendant, expected) in
        [(old, new, true), (new, new, true), (new, old, false), (side, new, false), (old, side, true)]
    {
        assert_eq!(repo.is_ancestor(ancestor, descendant).unwrap(), expected);
    }
    let missing: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
    assert!(matches!(repo.is_ancestor(missing, new), Err(AncestryError::Missing(id)) if id == missing));
}

#[test]
fn a_shallow_repository_that_can_not_say_no_refuses() {
    let scratch = Scratch::with_commits(4);
    let url = format!("file://{}", scratch.path().display());
    let clone = Scratch::init(&[]);
    clone.git(&["fetch", "-q", "--depth=2", &url, "prod:refs/remotes/origin/prod"]);
    let (head, parent) = (scratch.id("HEAD"), scratch.id("HEAD~1"));
    let repo = clone.open();
    assert!(repo.is_ancestor(parent, head).unwrap());
    let other: CommitId = clone.git(&["commit-tree", "-m", "x", &format!("{head}^{{tree}}")]).parse().unwrap();
    let error = repo.is_ancestor(other, head).unwrap_err();
    assert!(error.to_string().contains("git fetch --unshallow"), "{error}");
    // The other's history is whole, so it is certain what is not part of it.
    assert!(!repo.is_ancestor(head, other).unwrap());
}

#[test]
fn replace_refs_are_ignored() {
    let scratch = Scratch::with_commits(2);
    let (old, new) = (scratch.id("HEAD~1"), scratch.id("HEAD"));
    let tree = scratch.open().tree_of(new).unwrap();
    scratch.git(&["replace", &new.to_string(), &old.to_string()]);
    let repo = scratch.open();
    assert_eq!(repo.tree_of(new).unwrap(), tree);
    assert!(repo.is_ancestor(old, new).unwrap());
}

#[test]
fn hosts_are_the_directories_at_the_root() {
    let scratch = Scratch::with_commits(1);
    std::fs::create_dir_all(scratch.path().join("ns1.example.org/app")).unwrap();
    std::fs::create_dir_all(scratch.path().join(".github/app")).unwrap();
    for file in ["README", "ns1.example.org/app/x", ".github/app/x"] {
        std::fs::write(scratch.path().join(file), "").unwrap();
    }
    let commit = scratch.commit("more");
    let repo = scratch.open();
    let hosts: Vec<String> = repo.hosts(commit).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["ns1.example.org", "web1"]);
    let tree = repo.host_trees(commit).unwrap().remove(1).1;
    assert_eq!(tree.0, scratch.id("HEAD:web1").0);
}

#[test]
fn sha256_is_refused_in_one_line() {
    let scratch = Scratch::init(&["--object-format=sha256"]);
    let error = scratch.try_open().unwrap_err();
    assert!(matches!(error, OpenError::Sha256), "{error:?}");
}

#[test]
fn reftables_are_refused_in_one_line() {
    let scratch = Scratch::with_commits(1);
    scratch.git(&["config", "core.repositoryFormatVersion", "1"]);
    scratch.git(&["config", "extensions.refStorage", "reftable"]);
    assert!(matches!(scratch.try_open(), Err(OpenError::Reftable)));
}

#[test]
fn a_linked_worktree_shares_the_common_directory() {
    let scratch = Scratch::with_commits(1);
    scratch.git(&["worktree", "add", "-q", "--detach", "linked"]);
    let git_dir = scratch.path().join(".git/worktrees/linked");
    let variables = scratch.variables().into_iter().chain([("GIT_DIR".into(), git_dir.into())]);
    let repo = Repo::open(Environment::new(scratch.path().join("linked"), variables)).unwrap();
    let common = repo.common_dir().canonicalize().unwrap();
    assert_eq!(common, scratch.path().join(".git").canonicalize().unwrap());
}

#[test]
fn what_is_no_repository_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let environment = Environment::new(dir.path().into(), [("GIT_DIR".into(), "none".into())]);
    assert!(matches!(Repo::open(environment), Err(OpenError::NotARepository)));
    // No GIT_DIR: looked for upwards.
    let environment = Environment::new(dir.path().into(), []);
    assert!(matches!(Repo::open(environment), Err(OpenError::NotARepository)));
    let scratch = Scratch::with_commits(1);
    assert!(Repo::open(Environment::new(scratch.path().join("web1/app"), [])).is_ok());
}

#[test]
fn settings_given_with_c_count() {
    let scratch = Scratch::init(&[]);
    let parameters = [("GIT_CONFIG_PARAMETERS".into(), "'deptool.cluster'='prod'".into())];
    let variables = scratch.variables().into_iter().chain(parameters);
    let repo = Repo::open(Environment::new(scratch.path().into(), variables)).unwrap();
    assert_eq!(repo.gix().config_snapshot().string("deptool.cluster").unwrap(), "prod");
}
