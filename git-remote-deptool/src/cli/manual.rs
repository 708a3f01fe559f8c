//! Checks that `man/git-deptool.1` and clap agree: the manual has exactly the subcommands, options and exit statuses
//! that clap has, with the same summaries.
//!
//! In the manual, a subcommand is a `.Ss` whose first paragraph begins with its summary. An option or argument is an
//! `.It` that begins with `Fl` or `Ar`, and its text begins with the summary.

use std::collections::BTreeMap;

use super::{definition, exit::ExitStatus};

/// Each header of an entry (`Fl -json` for `.It Fl -json`), with the text that follows it.
type Entries = BTreeMap<String, String>;

/// The part of the manual about a subcommand, or about the whole program.
#[derive(Debug, Default, PartialEq, Eq)]
struct Section {
    summary: String,
    entries: Entries,
}

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../man/git-deptool.1");
    std::fs::read_to_string(path).unwrap()
}

/// The lines between `.Sh <title>` and the next one.
fn lines_of<'a>(page: &'a str, title: &str) -> Vec<&'a str> {
    let from = page.lines().skip_while(|line| *line != format!(".Sh {title}"));
    from.skip(1).take_while(|line| !line.starts_with(".Sh ")).collect()
}

/// The text lines up to the next macro, joined.
fn text(lines: &[&str]) -> String {
    let text = lines.iter().take_while(|line| !line.starts_with('.')).copied().collect::<Vec<_>>().join(" ");
    text.replace("\\&", "").replace("\\e", "\\")
}

fn entries(lines: &[&str]) -> Entries {
    let items = lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.strip_prefix(".It ")?)));
    items.map(|(at, header)| (header.to_owned(), text(&lines[at + 1..]))).collect()
}

/// The entries for arguments.
fn arguments(lines: &[&str]) -> Entries {
    let mut entries = entries(lines);
    entries.retain(|header, _| header.starts_with("Fl ") || header.starts_with("Ar "));
    entries
}

fn documented(page: &str) -> BTreeMap<String, Section> {
    let lines = lines_of(page, "COMMANDS");
    let begins: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].starts_with(".Ss ")).collect();
    let ends = begins.iter().skip(1).copied().chain([lines.len()]);
    let section = |(begin, end): (&usize, usize)| {
        let lines = &lines[*begin..end];
        let paragraph = lines.iter().position(|line| *line == ".Pp").map_or(lines.len(), |at| at + 1);
        let section = Section { summary: text(&lines[paragraph..]), entries: arguments(lines) };
        (lines[0][".Ss ".len()..].to_owned(), section)
    };
    begins.iter().zip(ends).map(section).collect()
}

/// The header of an argument's entry in the manual.
fn header(argument: &clap::Arg) -> String {
    let values: Vec<&str> = argument.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    let takes_value = argument.get_action().takes_values();
    let short = argument.get_short().map(|short| format!("Fl {short}"));
    let long = argument.get_long().map(|long| format!("Fl -{long}"));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    let is_optional = argument.get_long().is_some() && argument.get_num_args().is_some_and(|n| n.min_values() == 0);
    let value = match (takes_value, is_optional) {
        (false, _) => String::new(),
        (true, false) => format!("Ar {}", values.join(" ")),
        (true, true) => format!("Ns Op = Ns Ar {}", values.join(" ")),
    };
    [flags.join(" , "), value].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn defined(command: &clap::Command, is_shown: impl Fn(&clap::Arg) -> bool) -> Section {
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set() && is_shown(argument));
    let help = |argument: &clap::Arg| argument.get_help().map(ToString::to_string).unwrap_or_default();
    Section {
        summary: command.get_about().map(ToString::to_string).unwrap_or_default(),
        entries: arguments.map(|argument| (header(argument), help(argument))).collect(),
    }
}

/// The subcommands that do something, by their names: a subcommand with subcommands is only a part of theirs.
fn leaves<'a>(command: &'a clap::Command, prefix: &str) -> BTreeMap<String, &'a clap::Command> {
    let mut all = BTreeMap::new();
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("{prefix}{}", command.get_name());
        match command.has_subcommands() {
            true => all.extend(leaves(command, &format!("{name} "))),
            false => _ = all.insert(name, command),
        }
    }
    all
}

/// Assert that both have the same entries, and that each text begins with the summary as a sentence.
#[track_caller]
fn compare(name: &str, manual: &Section, defined: &Section) {
    let headers = |section: &Section| section.entries.keys().cloned().collect::<Vec<_>>();
    assert_eq!(headers(manual), headers(defined), "the arguments of '{name}': man/git-deptool.1, and clap");
    let begins = |what: &str, text: &str, summary: &str| {
        assert!(
            text.starts_with(&format!("{summary}.")),
            "man/git-deptool.1, {name}, {what}:\n{text}\nshould begin with\n{summary}."
        );
    };
    begins("summary", &manual.summary, &defined.summary);
    for (header, help) in &defined.entries {
        begins(header, &manual.entries[header], help);
    }
}

#[test]
fn the_manual_has_every_subcommand_and_every_option_and_no_others() {
    let page = page();
    let manual = documented(&page);
    let definition = definition();
    let commands = leaves(&definition, "");
    assert_eq!(
        manual.keys().collect::<Vec<_>>(),
        commands.keys().collect::<Vec<_>>(),
        "subcommands: man/git-deptool.1, and clap"
    );
    for (name, command) in commands {
        // Options of the whole program are global.
        let own = defined(command, |argument| !argument.is_global_set());
        compare(&name, &manual[&name], &own);
    }
}

#[test]
fn the_manual_has_the_options_of_the_whole_program() {
    let page = page();
    let lines = lines_of(&page, "OPTIONS");
    let mut defined = defined(&definition(), |_| true);
    defined.summary.clear();
    let manual = Section { summary: ".".into(), entries: arguments(&lines) };
    compare("OPTIONS", &manual, &defined);
}

#[test]
fn the_manual_has_the_exit_statuses() {
    let page = page();
    let manual: Vec<(String, String)> = entries(&lines_of(&page, "EXIT STATUS")).into_iter().collect();
    let mut defined = ExitStatus::ALL.map(|status| (status.code().to_string(), status.words().to_owned())).to_vec();
    defined.sort();
    assert_eq!(manual, defined);
}

#[test]
fn the_manual_is_read_as_it_is_written() {
    let page = ".Sh COMMANDS\n.Ss one\n.Nm git deptool Cm one\n.Pp\nDo\n\\&'it'.\n.It Fl -x Ar y\nSay\nmore.\n.Ar z\n\
                .It Cm other\nNothing.\n.Ss two\n.Sh END\n.It Fl -z\n";
    let manual = documented(page);
    let one = Section { summary: "Do 'it'.".into(), entries: [("Fl -x Ar y".into(), "Say more.".into())].into() };
    assert_eq!(manual, BTreeMap::from([("one".into(), one), ("two".into(), Section::default())]));
}
