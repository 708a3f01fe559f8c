//! Everything that a person is shown is in a file below `messages/`, so that a change of words is seen as one:
//!
//! - `texts` has every text of both programs, taken from their sources: a new one has to be added to it.
//! - the others have what people see of real commands.
//!
//! `DEPTOOL_UPDATE_MESSAGES=1 cargo test -p deptool-tests --test e2e messages` writes all of them anew.

use std::{collections::BTreeSet, fs, iter::Peekable, path::Path};

use deptool_tests::{
    build,
    process::Cmd,
    sandbox::{Repo, Sandbox},
};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree, token_stream};

use crate::seen::{shown, unchanged};

/// Writes the files instead of comparing them.
const UPDATE: &str = "DEPTOOL_UPDATE_MESSAGES";
/// Files and directories of tests, and the script that a host's shell is given.
const NOT_SHOWN: [&str; 7] = ["tests", "testing", "manual", "live", "live_settle", "fake", "script"];

/// Asserts that `actual` is what the file with this name has.
#[track_caller]
pub fn is_as_noted(name: &str, actual: &str) {
    let path = build::workspace().join("tests/e2e/messages").join(name);
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, format!("{actual}\n")).unwrap();
    }
    let noted = fs::read_to_string(&path).unwrap_or_default();
    let lines = |text: &str| text.trim_end().lines().map(str::to_owned).collect::<Vec<_>>();
    println!("is '{}' up to date? See {}", path.display(), file!());
    unchanged(&lines(actual), &lines(&noted));
}

/// Commands, and what they print: results first, then the rest.
struct Session<'a> {
    sandbox: &'a Sandbox,
    repo: Repo<'a>,
    commits: Vec<(&'static str, String)>,
    text: String,
}

impl Session<'_> {
    fn commit(&mut self, name: &'static str) {
        let id = self.repo.commit(name);
        self.commits.push((name, id));
    }

    fn run(&mut self, args: &[&str]) {
        self.run_with(args, self.repo.command(args));
    }

    fn run_with(&mut self, args: &[&str], command: Cmd) {
        let run = command.run().unwrap();
        let names: Vec<_> = self.commits.iter().map(|(name, id)| (*name, id.as_str())).collect();
        let text = shown(self.sandbox, &run, &names);
        // Versions of Git word these differently.
        let is_ours = |line: &&str| !line.contains("hint: ") && !line.contains("aborted session");
        let lines = text.lines().filter(is_ours).map(|line| if line.starts_with("Date:") { "Date:   …" } else { line });
        let args = args.join(" ").replace(&self.sandbox.dir().display().to_string(), "DIR");
        self.text += &format!("$ git {args}\n");
        self.text.extend(lines.map(|line| format!("{line}\n")));
        self.text += &format!("[{}]\n\n", run.status.code().unwrap_or(-1));
    }
}

fn begin(sandbox: &Sandbox) -> Session<'_> {
    Session { sandbox, repo: sandbox.repo("operator"), commits: Vec::new(), text: String::new() }
}

/// Says what ssh says.
const NO_ROUTE: &str = "sh -c 'echo ssh: connect to host web9 port 22: No route to host >&2; exit 255' ssh";
/// Nothing listens there.
const FAILS: &str = r#"{"health": [{"tcp": "127.0.0.1:1", "within": "1ms"}]}"#;

#[test]
fn what_git_shows_of_pushes_and_fetches_is_noted() {
    let sandbox = Sandbox::new();
    let mut session = begin(&sandbox);
    for host in ["web1", "web2"] {
        session.repo.write(format!("{host}/app/conf"), "one\n");
        session.repo.add_root(host);
    }
    session.repo.add_remote("cluster", "deptool::@all");
    session.commit("One");
    session.run(&["push", "--dry-run", "web1", "prod"]);
    session.run(&["push", "web1", "prod"]);
    session.run(&["push", "web1", "prod"]);
    session.run(&["push", "-v", "cluster", "prod"]);
    session.repo.write("web1/app/conf", "two\n");
    session.repo.write("web1/app/manifest.json", r#"{"symlinks": {"/etc/app.conf": "conf"}}"#);
    session.commit("Two");
    fs::create_dir_all(sandbox.root("web1").join("etc")).unwrap();
    fs::write(sandbox.root("web1").join("etc/app.conf"), "of the host").unwrap();
    session.run(&["push", "web1", "prod"]);
    fs::remove_file(sandbox.root("web1").join("etc/app.conf")).unwrap();
    session.run(&["push", "--porcelain", "cluster", "prod"]);
    session.run(&["push", "web1", "prod~1:prod"]);

    // Somebody else deploys.
    let other = sandbox.clone_of(&session.repo, "other");
    other.add_root("web1");
    other.git(&["fetch", "--quiet", "web1"]).ok();
    other.write("web1/app/conf", "theirs\n");
    session.commits.push(("Theirs", other.commit("Theirs")));
    other.git(&["push", "--quiet", "web1", "prod"]).ok();
    session.repo.write("web1/app/conf", "three\n");
    session.repo.write("web2/app/conf", "three\n");
    session.commit("Three");
    session.run(&["push", "cluster", "prod"]);
    session.run(&["fetch", "cluster"]);
    session.run(&["push", "web1", "prod"]);
    session.run(&["push", "--force", "web1", "prod"]);

    session.repo.write("web1/app/manifest.json", FAILS);
    session.repo.write("web2/app/conf", "four\n");
    session.commit("Four");
    session.run(&["push", "web1", "prod"]);
    session.run(&["push", "--atomic", "cluster", "prod"]);
    session.run(&["push", "-o", "waves=1,100%", "cluster", "prod"]);

    session.repo.add_remote("web9", "deptool::web9");
    session.repo.write("web9/app/conf", "one\n");
    session.commit("Five");
    for args in
        [&["push", "web9", "prod"][..], &["fetch", "web9"], &["push", "-o", "skip-unreachable", "cluster", "prod"]]
    {
        let command = session.repo.command(args).env("GIT_SSH_COMMAND", NO_ROUTE).env("GIT_SSH_VARIANT", "ssh");
        session.run_with(args, command);
    }
    session.repo.git(&["tag", "v1"]).ok();
    for args in [
        &["push", "web1", "v1"][..],
        &["push", "-o", "nonsense", "web1", "prod"],
        &["push", "-o", "confirm=x", "web1", "prod"],
        &["push", "cluster", ":prod"],
        &["push", "web2", ":prod", "prod:other"],
        &["push", "--mirror", "web2"],
        &["push", "deptool::web..9", "prod"],
        &["push", "deptool::@nobody", "prod"],
        &["clone", "deptool::@all", "clone"],
        &["push", "web2", ":prod"],
    ] {
        session.run(args);
    }
    is_as_noted("git", &session.text);
}

#[test]
fn what_git_deptool_shows_is_noted() {
    let sandbox = Sandbox::new();
    let mut session = begin(&sandbox);
    for host in ["web1", "web2"] {
        session.repo.write(format!("{host}/app/conf"), "one\n");
        session.repo.write(format!("{host}/app/manifest.json"), r#"{"symlinks": {"/etc/app.conf": "conf"}}"#);
    }
    session.commit("One");
    session.run(&["deptool", "plan", "nobody"]);
    session.run(&["deptool", "init"]);
    for host in ["web1", "web2"] {
        session.run(&["deptool", "add-host", "--url", &format!("deptool::{}", sandbox.root(host).display()), host]);
    }
    session.run(&["deptool", "plan"]);
    session.run(&["deptool", "deploy"]);
    session.run(&["deptool", "deploy", "--yes"]);
    session.run(&["deptool", "deploy", "--yes"]);
    session.run(&["deptool", "verify"]);
    let link = sandbox.root("web1").join("etc/app.conf");
    fs::remove_file(&link).unwrap();
    fs::write(&link, "by hand\n").unwrap();
    session.run(&["deptool", "verify"]);
    session.run(&["deptool", "deploy", "--yes"]);
    session.run(&["deptool", "repair", "--yes"]);
    session.repo.write("web2/app/conf", "two\n");
    session.run(&["deptool", "plan"]);
    session.commit("Two");
    session.run(&["deptool", "plan", "--waves=1,100%", "--confirm=5s"]);
    session.run(&["deptool", "status"]);
    session.run(&["deptool", "deploy", "--yes"]);
    session.run(&["deptool", "rollback", "--yes", "web2"]);
    session.run(&["deptool", "rollback", "--yes", "web2"]);
    session.run(&["deptool", "status", "--live"]);
    session.run(&["deptool", "log", "web2"]);
    session.repo.write("web2/app/manifest.json", FAILS);
    session.commit("Three");
    session.run(&["deptool", "deploy", "--yes"]);
    session.run(&["deptool", "snapshot", "--dry-run", "."]);
    session.repo.write("web1/app/manifest.json", "{");
    session.commit("Four");
    for args in [
        &["deptool", "plan"][..],
        &["deptool", "deploy", "--yes"],
        &["deptool", "deploy", "--yes", "--waves=foo"],
        &["deptool", "deploy", "--yes", "web9"],
        &["deptool", "plan", "@nobody"],
        &["deptool", "plan", "prod:a..b"],
        &["deptool", "snapshot", "nowhere"],
        &["deptool", "nonsense"],
        &["deptool", "-h"],
    ] {
        session.run(args);
    }
    is_as_noted("git-deptool", &session.text);
}

#[test]
fn every_text_of_both_programs_is_noted() {
    let mut texts = BTreeSet::new();
    for sources in ["git-remote-deptool/src", "deptool-agent/src"] {
        each_file(&build::workspace().join(sources), &mut |path| {
            let source = fs::read_to_string(path).unwrap();
            collect(source.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display())), &mut texts);
        });
    }
    let texts: Vec<String> = texts.into_iter().collect();
    is_as_noted("texts", &texts.join("\n"));
}

#[test]
fn errors_are_written_as_gits() {
    each_file(&build::workspace().join("git-remote-deptool/src"), &mut |path| {
        let mut errors = BTreeSet::new();
        let source: TokenStream = fs::read_to_string(path).unwrap().parse().unwrap();
        each_error(source, &mut errors);
        for error in errors {
            let first = error.chars().next().unwrap();
            assert!(!first.is_uppercase() && !error.ends_with('.'), "{}: {error}", path.display());
        }
    });
}

/// Calls `take` for the source files below `dir`, but for those that are [`NOT_SHOWN`].
fn each_file(dir: &Path, take: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            _ if NOT_SHOWN.iter().any(|name| path.file_stem().is_some_and(|stem| stem == *name)) => {}
            true => each_file(&path, take),
            false if path.extension().is_some_and(|end| end == "rs") => take(&path),
            false => {}
        }
    }
}

/// The texts in the code and in `#[error(…)]`. Other attributes, tests and assertions are passed over.
fn collect(tokens: TokenStream, texts: &mut BTreeSet<String>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                let _inner = tokens.next_if(|token| is_mark(token, '!'));
                let Some(attribute) = next_group(&mut tokens) else { continue };
                match attribute.to_string().replace(' ', "") {
                    text if text.starts_with("[error") => collect(attribute.stream(), texts),
                    text if text.starts_with("[cfg(test") || text.starts_with("[cfg(all(test") => {
                        skip_item(&mut tokens);
                    }
                    _ => {}
                }
            }
            TokenTree::Ident(name) if name.to_string().contains("assert") || name == "expect" => {
                let _macro = tokens.next_if(|token| is_mark(token, '!'));
                next_group(&mut tokens);
            }
            TokenTree::Group(group) => collect(group.stream(), texts),
            TokenTree::Literal(literal) => texts.extend(text_of(&literal.to_string()).filter(|text| is_shown(text))),
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

/// The texts of `#[error("…")]`.
fn each_error(tokens: TokenStream, errors: &mut BTreeSet<String>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                let Some(attribute) = next_group(&mut tokens) else { continue };
                if attribute.to_string().starts_with("[error") {
                    collect(attribute.stream(), errors);
                }
            }
            TokenTree::Group(group) => each_error(group.stream(), errors),
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

fn is_mark(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == mark)
}

/// The group that comes next, if one does.
fn next_group(tokens: &mut Peekable<token_stream::IntoIter>) -> Option<Group> {
    match tokens.next_if(|token| matches!(token, TokenTree::Group(_))) {
        Some(TokenTree::Group(group)) => Some(group),
        _ => None,
    }
}

/// Passes over a module, function or declaration.
fn skip_item(tokens: &mut Peekable<token_stream::IntoIter>) {
    let is_end = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        TokenTree::Ident(_) | TokenTree::Literal(_) => false,
    };
    while tokens.next_if(|token| !is_end(token)).is_some() {}
    tokens.next();
}

/// The content of a string literal, on one line.
fn text_of(literal: &str) -> Option<String> {
    let text = literal.strip_prefix('r').unwrap_or(literal).trim_matches('#');
    let text = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut lines = text.split("\\\n");
    let first = lines.next()?.to_owned();
    Some(lines.fold(first, |text, line| text + line.trim_start()).replace('\n', "\\n"))
}

/// Whether it is a sentence or a part of one, and no name, path or number.
fn is_shown(text: &str) -> bool {
    text.trim().contains(' ') && text.chars().filter(|c| c.is_alphabetic()).count() > 3
}
