//! `git deptool plan`: shows what a deployment would change, according to what this repository knows.

use std::collections::BTreeMap;

use deptool_agent::shared::{name::HostName, wire::Repair};

use super::{
    CliError,
    aim::{self, Aim, AimArgs, Hosts},
    caveats,
    deploy_options::{CourseOptions, PlainOption},
    diff::{self, Format},
    exit::ExitStatus,
    markdown,
    output::{Output, Style, painted},
    refresh::{self, Refreshed, Whom},
    view,
};
use crate::{
    fleet::remote::{Remote, RemoteError},
    model::batch::Ancestry,
    plan::ClusterPlan,
    ui::render::{
        cluster::{Detail, Shown, names, plans},
        plural,
    },
};

/// Show what a deployment would change, and on which hosts
///
/// Does not connect: the plan is made from what the hosts are known to run. A deployment only takes place if they still
/// run that.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    aim: AimArgs,
    /// Also plan for a commit that does not descend from the one that runs, to go back
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    course: CourseOptions,
    #[command(flatten)]
    plain: PlainOption,
    /// Fetch what the hosts run first
    #[arg(long)]
    fetch: bool,
    /// Also show the changed lines, in the pager
    #[arg(short, long)]
    patch: bool,
    /// Show the number of changed lines of each file
    #[arg(long)]
    stat: bool,
    /// Show all hosts and files, however many there are
    #[arg(long)]
    full: bool,
    /// Print the plan as JSON
    #[arg(long, conflicts_with_all = ["patch", "stat", "full", "format"])]
    json: bool,
    /// Print the plan as text, or in Markdown, as a comment on a merge request
    #[arg(long, value_name = "format", default_value = "text", conflicts_with_all = ["patch", "stat", "full"])]
    format: Layout,
    /// Exit with 2 if anything would change
    #[arg(long)]
    exit_code: bool,
}

/// How a plan is laid out for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Layout {
    Text,
    Markdown,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let aim = Aim::of(remote, &args.aim, Hosts::OfTree)?;
    if args.fetch && refresh::refresh(remote, &aim.hosts, Whom::All)? == Refreshed::NotAll {
        return Err(CliError::Hosts("not all hosts could be asked for their state".into(), ExitStatus::Unreachable));
    }
    let ancestry = if args.force { Ancestry::Waived } else { Ancestry::Required };
    let plan = aim.plan(&remote.repo, ancestry, Repair::Changed, args.plain.or_configured(remote))?;
    let mut notes = caveats::of_tree(remote, &aim)?;
    if plan.affected().next().is_none() && plan.refused().next().is_none() {
        notes.extend(caveats::of_work_tree(remote, &aim));
    }
    notes.iter().try_for_each(|note| output.remark(note))?;
    if args.json {
        let waves = waves(remote, &aim, &plan, &args.course);
        output.json(&view::Plan::of(&plan, waves, notes))?;
    } else if args.format == Layout::Markdown {
        let course = course(remote, &aim, &plan, &args.course)?;
        output.text(&markdown::comment(remote, &plan, &course, &notes)?)?;
    } else {
        let detail = if args.full { Detail::Full } else { Detail::Readable };
        let text = text(remote, output, &plan, detail) + &course(remote, &aim, &plan, &args.course)?;
        let format = match (args.patch, args.stat) {
            (true, true) => Some(Format::Both),
            (true, false) => Some(Format::Patch),
            (false, true) => Some(Format::Stat),
            (false, false) => None,
        };
        match format {
            Some(format) if plan.affected().next().is_some() => {
                let text = format!("{text}\n");
                diff::show(remote, output, &text, &plan, format)?;
            }
            _ if !text.is_empty() => output.text(&text)?,
            _ if plan.refused().next().is_some() => {}
            _ if notes.is_empty() => output.note("everything is up to date, as far as this repository knows")?,
            _ => output.note("nothing to deploy, as far as this repository knows")?,
        }
    }
    show_problems(&plan, output)?;
    let refused: Vec<_> = plan.refused().map(|(_, refusal)| refusal).collect();
    Ok(match refused.as_slice() {
        [] if args.exit_code && plan.affected().next().is_some() => ExitStatus::Changes,
        [] => ExitStatus::Done,
        refused => view::status_of(refused),
    })
}

/// The plan as text, in colour.
pub(super) fn text(remote: &Remote, output: &Output, plan: &ClusterPlan, detail: Detail) -> String {
    let shown = |(host, change)| {
        let (host, change): (&crate::config::HostRemote, &crate::plan::HostChange) = (host, change);
        Shown { host: &host.host, plan: &change.plan, safeguards: &change.safeguards }
    };
    let affected: Vec<_> = plan.affected().map(shown).collect();
    let text = plans(&affected, detail);
    if !output.has_colour(remote.repo.gix().config_snapshot().plumbing()) {
        return text;
    }
    let paint = |line: &str| {
        let style = match line.trim_start().as_bytes() {
            _ if !line.starts_with(' ') => Style::Heading,
            [b'+', b' ', ..] => Style::Added,
            [b'~', b' ', ..] => Style::Changed,
            [b'-', b' ', ..] => Style::Removed,
            [b'(', ..] => Style::Faint,
            _ => Style::Plain,
        };
        painted(line, style, true) + "\n"
    };
    text.lines().map(paint).collect()
}

/// The waves and the time for confirmation, as the push takes them.
pub(super) fn course(
    remote: &Remote,
    aim: &Aim,
    plan: &ClusterPlan,
    course: &CourseOptions,
) -> Result<String, CliError> {
    let mut out = String::new();
    for (number, wave) in waves(remote, aim, plan, course).iter().enumerate() {
        let hosts: Vec<_> = wave.iter().collect();
        let count = plural(wave.len(), "host");
        out += &format!("wave {}: {} ({count})\n", number + 1, names(&hosts, Detail::Readable));
    }
    let asked = course.parsed(remote).confirm;
    let pushed_to = aim::remote_of_all(remote).filter(|_| aim.is_everything()).unwrap_or_default();
    let mut times: BTreeMap<Option<u16>, Vec<&HostName>> = BTreeMap::new();
    for (host, _) in plan.affected() {
        let time = remote.settings.confirm(asked, &host.tracking, &pushed_to, &aim.defaults);
        times.entry(time.map_err(RemoteError::from)?).or_default().push(&host.host);
    }
    for (time, hosts) in &times {
        let Some(seconds) = time else { continue };
        let which = match times.len() {
            1 => "a host".to_owned(),
            _ if hosts.len() == 1 => hosts[0].to_string(),
            _ => format!("each of {}", names(hosts, Detail::Readable)),
        };
        out += &format!("confirm: {which} is rolled back unless it can be reached again within {seconds} s\n");
    }
    Ok(out)
}

/// The hosts of each wave, or nothing if there is only one.
fn waves(remote: &Remote, aim: &Aim, plan: &ClusterPlan, course: &CourseOptions) -> Vec<Vec<HostName>> {
    let hosts: Vec<HostName> = plan.affected().map(|(host, _)| host.host.clone()).collect();
    let mut options = course.parsed(remote);
    aim.defaults.fill_push_options(&mut options);
    let ends = options.waves.ends(hosts.len());
    if ends.len() < 2 {
        return Vec::new();
    }
    let begins = [0].into_iter().chain(ends.iter().copied());
    begins.zip(&ends).map(|(begin, end)| hosts[begin..*end].to_vec()).collect()
}

/// Print on stderr the hosts that a push would fail on, and those in doubt.
pub(super) fn show_problems(plan: &ClusterPlan, output: &Output) -> Result<(), CliError> {
    for (host, refusal) in plan.refused() {
        output.complain(format_args!("{}: {}", host.host, refusal.words()))?;
    }
    for forecast in &plan.hosts {
        if let Some(doubt) = view::doubt(&forecast.known) {
            output.complain(format_args!("{}: {doubt}; a push asks first", forecast.remote.host))?;
        }
    }
    Ok(())
}
