//! The examples for CI in `doc/ci`: their shell commands run here, in a clone as in CI. Programs of the tests stand in for
//! GitHub's and GitLab's servers: they keep one comment, and answer the examples' own queries with jq.

use std::{fs, path::Path};

use deptool_tests::{
    process::{Run, write_program},
    sandbox::{Repo, Sandbox},
};

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
    let plain = |item: &str| match item.strip_prefix('\'').and_then(|item| item.strip_suffix('\'')) {
        Some(quoted) => quoted.replace("''", "'"),
        None => item.to_owned(),
    };
    lines.lines().filter_map(|line| line.strip_prefix("- ")).map(plain).collect::<Vec<_>>().join("\n")
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
    shell(sandbox, clone, script, variables).ok().stdout()
}

fn shell(sandbox: &Sandbox, clone: &Repo<'_>, script: &str, variables: &[(&str, &str)]) -> Run {
    let script = format!("PATH={}:$PATH\n{script}", sandbox.dir().join("servers").display());
    let shell = ["--wait", "bash", "-e", "-o", "pipefail", "-c", &script];
    let mut shell = sandbox.command("setsid").dir(&clone.dir).args(shell);
    for (name, value) in variables {
        shell = shell.env(name, value);
    }
    shell.run().unwrap()
}

/// A program that stands in for a server.
fn server(sandbox: &Sandbox, name: &str, script: &str) {
    let program = sandbox.dir().join("servers").join(name);
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    let comment = sandbox.dir().join("comment");
    write_program(&program, format!("#!/bin/sh\ncomment={}\n{script}", comment.display())).unwrap();
}

/// Somebody else's comment, which must not be taken for the plan.
const OTHERS: &str = "no, --digest=0000000000000000000000000000000000000000000000000000000000000000";

/// The digest of the plan in the comment.
fn digest(sandbox: &Sandbox) -> String {
    let comment = fs::read_to_string(sandbox.dir().join("comment")).unwrap();
    let (_, digest) = comment.rsplit_once("--digest=").unwrap();
    digest.trim_end().trim_end_matches('`').to_owned()
}

/// Merge what was reviewed, as servers do: another commit with the same content.
fn merge(sandbox: &Sandbox, clone: &Repo<'_>) -> String {
    let id = clone.git(&["commit-tree", "-p", "HEAD", "-m", "Merge", "HEAD^{tree}"]).ok().line();
    clone.git(&["checkout", "--quiet", &id]).ok();
    assert!(sandbox.dir().join("comment").exists());
    id
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
    server(
        &sandbox,
        "gh",
        &format!(
            r#"
for last; do :; done
case "$1 $2" in
"pr comment") cp plan.md "$comment" ;;
"api repos/o/r/commits/"*) echo '[{{"number":7}}]' | jq -r "$last" ;;
"pr view") jq -n --rawfile body "$comment" \
    '{{comments:[{{viewerDidAuthor:true,$body}},{{viewerDidAuthor:false,body:"{OTHERS}"}}]}}' | jq -r "$last" ;;
esac"#
        ),
    );
    step(&sandbox, &clone, &part("Plan"), &[("GITHUB_STEP_SUMMARY", &summary)]);
    step(&sandbox, &clone, &part("Comment"), &[("NUMBER", "7")]);
    let comment = fs::read_to_string(sandbox.dir().join("comment")).unwrap();
    assert_eq!(comment, fs::read_to_string(Path::new(&summary)).unwrap());
    assert!(comment.contains("<details><summary><b>web1, web2</b>: 1 app, 1 file</summary>"), "{comment}");

    let sha = merge(&sandbox, &clone);
    let variables = [
        ("GIT_COMMITTER_NAME", "ci"),
        ("GIT_COMMITTER_EMAIL", "ci@example.org"),
        ("GITHUB_REPOSITORY", "o/r"),
        ("GITHUB_SHA", &sha),
    ];
    // Something else than what was reviewed is not deployed.
    clone.git(&["checkout", "--quiet", "-b", "other"]).ok();
    clone.write("web1/app/conf", "three");
    clone.commit("Another");
    shell(&sandbox, &clone, &part("Deploy"), &variables).fails().says("the plan is not the one of this digest");
    clone.git(&["checkout", "--quiet", &sha]).ok();
    let told = step(&sandbox, &clone, &part("Deploy"), &variables);
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
    let job = [
        ("PLAN_TOKEN", "token"),
        ("CI_API_V4_URL", "https://gitlab"),
        ("CI_PROJECT_ID", "1"),
        ("CI_MERGE_REQUEST_IID", "7"),
        ("CI_COMMIT_SHA", "0123"),
    ];
    let user = [("GITLAB_USER_NAME", "ci"), ("GITLAB_USER_EMAIL", "ci@example.org")];
    let variables: Vec<(&str, &str)> =
        [("DEPLOY_KEY", &*file), ("KNOWN_HOSTS", &*file)].into_iter().chain(user).chain(job).collect();
    server(
        &sandbox,
        "curl",
        &format!(
            r#"
case "$*" in
*"-H PRIVATE-TOKEN: token https://gitlab/projects/1/merge_requests/7/notes --data-urlencode body@plan.md") cp plan.md "$comment" ;;
*/projects/1/repository/commits/*/merge_requests) echo '[{{"iid":7}}]' ;;
*/user) echo '{{"id":3}}' ;;
*/projects/1/merge_requests/7/notes?sort=desc) jq -n --rawfile body "$comment" \
    '[{{author:{{id:4}},body:"{OTHERS}"}},{{author:{{id:3}},$body}},{{author:{{id:3}},body:"{OTHERS}"}}]' ;;
*) exit 22 ;;
esac"#
        ),
    );
    step(&sandbox, &clone, &part("plan:"), &variables);
    assert_eq!(digest(&sandbox).len(), 64);
    merge(&sandbox, &clone);
    step(&sandbox, &clone, &part("deploy:"), &variables);
    let document = std::fs::read(clone.dir.join("deployment.json")).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    assert_eq!(document["hosts"][1]["outcome"], "done");
    assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/app/current/conf"), b"two");
    let again = step(&sandbox, &clone, &part("deploy:"), &variables);
    assert_eq!(again, "everything is up to date, as far as this repository knows\n");
}

#[test]
fn the_hook_of_a_bare_repository_deploys_what_is_pushed_without_a_terminal_or_an_identity() {
    let sandbox = Sandbox::new();
    let repo = operator(&sandbox);
    sandbox.command("git").args(["init", "-q", "--bare", "-b", "prod", "config.git"]).run().unwrap().ok();
    let bare = sandbox.repo_at(sandbox.dir().join("config.git"));
    bare.git(&["deptool", "init"]).ok();
    for host in ["web1", "web2"] {
        bare.add_root(host);
    }
    let hook = bare.dir.join("hooks/post-receive");
    write_program(&hook, example("post-receive")).unwrap();
    repo.git(&["remote", "add", "shared", bare.dir.to_str().unwrap()]).ok();
    let push = |refspec: &str| {
        let push = sandbox.command("setsid").dir(&repo.dir).args(["--wait", "git", "push", "shared", refspec]);
        push.env("GIT_CONFIG_GLOBAL", "/dev/null").run().unwrap()
    };
    push("prod").ok().says("remote: Deployed to 2 hosts in");
    assert_eq!(sandbox.read("web2", "/var/lib/deptool/apps/app/current/conf"), b"two");
    // Other branches are not deployed, and a deleted one removes nothing.
    push("prod:other").ok().does_not_say("web1");
    push(":other").ok().does_not_say("web1");
    repo.write("web1/app/manifest.json", "{");
    repo.commit("A mistake");
    push("prod").ok().says("remote: error: nothing was deployed").says("web1: app/manifest.json: ");
    assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/app/current/conf"), b"two");
}
