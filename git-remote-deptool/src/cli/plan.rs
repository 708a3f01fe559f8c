//! `git deptool plan`: what a deployment would change, from what is known here.

use super::{
    CliError,
    aim::{Aim, AimArgs},
    diff::{self, Format},
    exit::ExitStatus,
    hear::{self, Heard, Whom},
    output::{Output, Style, painted},
    view,
};
use crate::{
    fleet::remote::Remote,
    model::batch::Ancestry,
    plan::ClusterPlan,
    ui::render::cluster::{Detail, plans},
};

/// Show what a deployment would change, and on which hosts
///
/// Does not connect: the plan is made from what the hosts are known to run. A deployment only takes place if they still
/// run that.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    aim: AimArgs,
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
    #[arg(long, conflicts_with_all = ["patch", "stat", "full"])]
    json: bool,
    /// Exit with 2 if anything would change
    #[arg(long)]
    exit_code: bool,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let aim = Aim::of(remote, &args.aim)?;
    if args.fetch && hear::hear(remote, &aim.hosts, Whom::All)? == Heard::Some {
        return Ok(ExitStatus::Unreachable);
    }
    let plan = aim.plan(&remote.repo, Ancestry::Required)?;
    if args.json {
        output.json(&view::Plan::of(&plan))?;
    } else {
        let detail = if args.full { Detail::Full } else { Detail::Readable };
        let text = text(remote, output, &plan, detail);
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
            _ if text.is_empty() => output.note("everything is up to date, as last heard")?,
            _ => output.text(&text)?,
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

/// What changes, painted.
pub(super) fn text(remote: &Remote, output: &Output, plan: &ClusterPlan, detail: Detail) -> String {
    let affected: Vec<_> = plan.affected().map(|(host, change)| (&host.host, &change.plan)).collect();
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

/// Say on stderr which hosts a push would fail at, and which are in doubt.
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
