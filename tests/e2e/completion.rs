//! Shell completion of `git deptool`.

use deptool_tests::process::find_program;
use deptool_tests::sandbox::Sandbox;

const GITS_COMPLETION: &str = "/usr/share/bash-completion/completions/git";

/// The completions of bash for a line, through Git's own completion. None if that is not installed.
fn bash(sandbox: &Sandbox, line: &str) -> Option<Vec<String>> {
    if !std::path::Path::new(GITS_COMPLETION).exists() {
        eprintln!("skipped: {GITS_COMPLETION} is not there");
        return None;
    }
    let script = r#"
        . "$1" && . "$2"
        read -ra COMP_WORDS <<<"$3"
        [[ $3 == *" " ]] && COMP_WORDS+=("")
        COMP_LINE=$3 COMP_POINT=${#3} COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        __git_wrap__git_main 2>/dev/null
        printf '%s|\n' "${COMPREPLY[@]}"
    "#;
    let ours = deptool_tests::build::workspace().join("git-remote-deptool/src/cli/completion/git-deptool.bash");
    let run = sandbox.command("bash").args(["-c", script, "bash", GITS_COMPLETION]).arg(ours).arg(line);
    let offered = run.dir(sandbox.dir()).run().unwrap().ok().stdout();
    Some(offered.lines().map(|word| word.trim_end_matches('|').to_owned()).collect())
}

#[test]
fn bash_completes_subcommands_and_options_through_gits_own_completion() {
    let sandbox = Sandbox::new();
    sandbox.repo("operator");
    let Some(offered) = bash(&sandbox, "git deptool comple") else { return };
    assert_eq!(offered, ["completion "], "and not the hidden 'complete'");
    assert_eq!(bash(&sandbox, "git deptool completion z").unwrap(), ["zsh "]);
    assert_eq!(bash(&sandbox, "git -C operator deptool --qu").unwrap(), ["--quiet "]);
    assert_eq!(bash(&sandbox, "git deptool --color=al").unwrap(), ["always "]);
    assert_eq!(bash(&sandbox, "git deptool secret re").unwrap(), ["rekey "]);
}

#[test]
fn hosts_clusters_and_directories_are_offered() {
    let sandbox = Sandbox::new();
    let repo = sandbox.repo("operator");
    repo.write("web1/app/file", "1");
    repo.write("ns1.example.org/app/file", "1");
    repo.commit("Begin");
    repo.git(&["branch", "staging"]).ok();
    let Some(clusters) = bash(&sandbox, "git -C operator deptool init ") else { return };
    assert!(["prod ", "staging "].iter().all(|cluster| clusters.contains(&(*cluster).to_owned())), "{clusters:?}");
    repo.git(&["deptool", "init"]).ok();
    assert_eq!(bash(&sandbox, "git -C operator deptool add-host n").unwrap(), ["ns1.example.org "]);
    repo.git(&["deptool", "add-host", "ns1.example.org"]).ok();
    let hosts = bash(&sandbox, "git -C operator deptool add-host w").unwrap();
    assert_eq!(hosts, ["web1 "], "those that have no remote yet");
    assert_eq!(bash(&sandbox, "git -C operator deptool rollback n").unwrap(), ["ns1.example.org "]);
    assert_eq!(bash(&sandbox, "git -C operator deptool plan w").unwrap(), ["web1 "]);
    assert_eq!(bash(&sandbox, "git -C operator deptool deploy stag").unwrap(), ["staging "]);
    assert_eq!(bash(&sandbox, "git deptool snapshot oper").unwrap(), ["operator/"]);
}

#[test]
fn fish_completes_behind_git_too() {
    let sandbox = Sandbox::new();
    let Some(fish) = find_program("fish") else {
        eprintln!("skipped: fish is not installed");
        return;
    };
    let offered = |line: &str| {
        let script = format!("git deptool completion fish | source; complete -C '{line}'");
        let shown = sandbox.command(&fish).args(["-c", &script]).run().unwrap().ok().stdout();
        shown.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(offered("git deptool comple"), ["completion"]);
    assert_eq!(offered("git-deptool completion z"), ["zsh"]);
    assert!(offered("git -C . deptool completion ").contains(&"fish".into()));
}

#[test]
fn the_scripts_are_in_the_language_of_their_shells() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = sandbox.command("git").args(["deptool", "completion", shell]).run().unwrap().ok().stdout;
        match find_program(shell) {
            Some(program) => drop(sandbox.command(program).arg("-n").input(script).run().unwrap().ok()),
            None => eprintln!("skipped: {shell} is not installed"),
        }
    }
}
