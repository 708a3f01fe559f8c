//! The examples for CI in `doc/ci`: their shell commands run here, in a clone as in CI.

use deptool_tests::sandbox::{Repo, Sandbox};

/// The examples.
fn example(name: &str) -> String {
    let path = format!("{}/../doc/ci/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The block of lines below the line `key`, without indentation.
fn below(text: &str, key: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = text.lines().skip_while(|line| line.trim_start() != key);
    let head = indent(lines.next().unwrap_or_else(|| panic!("'{key}' is not in\n{text}")));
    let block: Vec<&str> = lines.take_while(|line| line.trim().is_empty() || indent(line) > head).collect();
    let least = block.iter().filter(|line| !line.trim().is_empty()).map(|line| indent(line)).min().unwrap();
    block.iter().map(|line| line.get(least..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The commands of a list in GitLab's format, one per line.
fn commands(text: &str, key: &str) -> String {
    let lines = below(text, key);
    lines.lines().filter_map(|line| line.strip_prefix("- ")).collect::<Vec<_>>().join("\n")
}

/// An operator with two hosts that run something, and a newer commit.
fn operator(sandbox: &Sandbox) -> Repo<'_> {
    let repo = sandbox.repo("operator");
    for host in ["web1", "web2"] {
        repo.write(format!("{host}/app/conf"), "one");
        repo.add_root(host);
        repo.commit(host);
        repo.git(&["push", host, "prod"]).ok();
    }
    repo.write("web1/app/conf", "two");
    repo.write("web2/app/conf", "two");
    repo.commit("Two");
    repo
}

/// A checkout of a commit, without a branch and without knowledge of the hosts. The runner configures their addresses.
fn checkout<'a>(sandbox: &'a Sandbox, repo: &Repo<'_>) -> Repo<'a> {
    let clone = sandbox.clone_of(repo, "builds");
    clone.git(&["checkout", "--quiet", "--detach"]).ok();
    clone.git(&["branch", "--quiet", "-D", "prod"]).ok();
    for host in ["web1", "web2"] {
        clone.add_root(host);
    }
    clone
}

/// Runs a step as a runner does: in a shell that stops at the first failure, without a terminal.
#[track_caller]
fn step(sandbox: &Sandbox, clone: &Repo<'_>, script: &str, variables: &[(&str, &str)]) -> String {
    let mut shell =
        sandbox.command("setsid").dir(&clone.dir).args(["--wait", "bash", "-e", "-o", "pipefail", "-c", script]);
    for (name, value) in variables {
        shell = shell.env(name, value);
    }
    shell.run().unwrap().ok().stdout()
}

#[test]
fn the_example_for_github_plans_and_deploys() {
    let sandbox = Sandbox::new();
    let repo = operator(&sandbox);
    let clone = checkout(&sandbox, &repo);
    let text = example("github-actions.yml");
    let part = |name: &str| {
        let from = text.find(&format!("- name: {name}\n")).unwrap();
        below(&text[from..], "run: |")
    };
    step(&sandbox, &clone, &part("Set up the ssh key"), &[("DEPLOY_KEY", "key"), ("KNOWN_HOSTS", "hosts")]);
    assert_eq!(std::fs::read(sandbox.home().join(".ssh/id_ed25519")).unwrap(), b"key\n");
    let summary = sandbox.dir().join("summary").display().to_string();
    let plan = step(&sandbox, &clone, &part("Plan"), &[("GITHUB_STEP_SUMMARY", &summary)]);
    assert_eq!(plan, "web1\n    update app\n        ~ conf\nweb2\n    update app\n        ~ conf\n");
    let actor = [("GIT_COMMITTER_NAME", "ci"), ("GIT_COMMITTER_EMAIL", "ci@example.org")];
    let told = step(&sandbox, &clone, &part("Deploy"), &actor);
    assert!(told.contains("Deployed to 2 hosts in"), "{told}");
    assert_eq!(sandbox.read("web2", "/var/lib/deptool/apps/app/current/conf"), b"two");
}

#[test]
fn the_example_for_gitlab_plans_and_deploys_and_does_nothing_twice() {
    let sandbox = Sandbox::new();
    let repo = operator(&sandbox);
    let clone = checkout(&sandbox, &repo);
    let text = example("gitlab-ci.yml");
    let before = commands(&text, "before_script:");
    let part = |name: &str| format!("{before}\n{}", commands(&below(&text, name), "script:"));
    std::fs::write(sandbox.dir().join("file"), "content").unwrap();
    let file = sandbox.dir().join("file").display().to_string();
    let user = [("GITLAB_USER_NAME", "ci"), ("GITLAB_USER_EMAIL", "ci@example.org")];
    let variables: Vec<(&str, &str)> =
        [("DEPLOY_KEY", &*file), ("KNOWN_HOSTS", &*file)].into_iter().chain(user).collect();
    let plan = step(&sandbox, &clone, &part("plan:"), &variables);
    assert!(plan.contains(" web1/app/conf | 2 +-"), "{plan}");
    step(&sandbox, &clone, &part("deploy:"), &variables);
    let document = std::fs::read(clone.dir.join("deployment.json")).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    assert_eq!(document["hosts"][1]["outcome"], "done");
    assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/app/current/conf"), b"two");
    let again = step(&sandbox, &clone, &part("deploy:"), &variables);
    assert_eq!(again, "everything is up to date, as far as this repository knows\n");
}
