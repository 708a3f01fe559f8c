//! How a deployment is carried out: the options that `deploy`, `rollback` and `plan` share.

use crate::{
    config::cluster_file::Defaults,
    fleet::remote::Remote,
    model::{
        options::{Atomicity, Options},
        push_option::{PlainText, PushOptionError, PushOptions},
    },
};

/// The options that also affect the plan.
#[derive(Debug, Default, clap::Args)]
pub(super) struct CourseOptions {
    /// Deploy in waves: '1,25%,100%' is one host, then a quarter of them, then all
    #[arg(long, value_name = "until,...", value_parser = waves)]
    waves: Option<String>,
    /// Undo the deployment on hosts that can't be reached again within this time
    #[arg(
        long,
        value_name = "time",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30s",
        value_parser = confirm
    )]
    confirm: Option<String>,
}

/// Whether private keys and passwords may be deployed in plain text.
#[derive(Debug, Default, clap::Args)]
pub(super) struct PlainOption {
    /// Also deploy private keys and passwords that are not encrypted
    #[arg(long)]
    allow_plain: bool,
}

impl PlainOption {
    /// This, or what `push.pushOption` says.
    pub fn or_configured(&self, remote: &Remote) -> PlainText {
        let configured = configured(remote);
        match self.allow_plain || configured.iter().any(|option| option == b"allow-plain") {
            true => PlainText::Allowed,
            false => PlainText::Refused,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct DeployOptions {
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub yes: bool,
    /// Fetch what the hosts run first
    #[arg(long)]
    pub fetch: bool,
    /// If one host fails, roll back all of them
    #[arg(long)]
    pub atomic: bool,
    /// Do not roll back the other hosts, even if cluster.json has it so
    #[arg(long, conflicts_with = "atomic")]
    pub no_atomic: bool,
    #[command(flatten)]
    pub course: CourseOptions,
    /// Wait up to this time for another deployment to end
    #[arg(long, value_name = "time", value_parser = lock_wait)]
    lock_wait: Option<String>,
    /// Take over files that are in the way; they are put back when their paths are given up
    #[arg(long)]
    take_over: bool,
    /// Skip hosts that can't be reached
    #[arg(long, conflicts_with = "atomic")]
    pub skip_unreachable: bool,
    /// Print the outcome for each host as JSON; needs --yes
    #[arg(long, requires = "yes")]
    pub json: bool,
}

impl CourseOptions {
    /// The push options for `git push`.
    pub fn push_options(&self) -> Vec<String> {
        let waves = self.waves.as_ref().map(|waves| format!("waves={waves}"));
        let confirm = self.confirm.as_ref().map(|time| format!("confirm={time}"));
        waves.into_iter().chain(confirm).collect()
    }

    /// The effective push options: these on top of `push.pushOption`.
    pub fn parsed(&self, remote: &Remote) -> PushOptions {
        parsed(remote, self.push_options())
    }
}

impl DeployOptions {
    /// The push options for `git push`.
    pub fn push_options(&self) -> Vec<String> {
        let mut options = self.course.push_options();
        options.extend(self.lock_wait.as_ref().map(|time| format!("lock-wait={time}")));
        options.extend(self.take_over.then(|| "take-over".to_owned()));
        options.extend(self.no_atomic.then(|| "no-atomic".to_owned()));
        options.extend(self.skip_unreachable.then(|| "skip-unreachable".to_owned()));
        options
    }

    /// Whether one failure is to undo the others: as it was asked for, or else as in cluster.json.
    pub fn atomicity(&self, remote: &Remote, defaults: &Defaults) -> Atomicity {
        let atomicity = if self.atomic { Atomicity::AllOrNothing } else { Atomicity::PerHost };
        let push_options = parsed(remote, self.push_options());
        defaults.fill(&Options { atomicity, push_options, ..Options::default() }).atomicity
    }
}

fn parsed(remote: &Remote, own: Vec<String>) -> PushOptions {
    let mut options = PushOptions::default();
    for option in configured(remote).into_iter().chain(own.into_iter().map(String::into_bytes)) {
        // The push reports errors in configured options.
        let _ = options.set(&option);
    }
    options
}

/// The values of `push.pushOption`. An empty value clears the ones before it.
pub(super) fn configured(remote: &Remote) -> Vec<Vec<u8>> {
    let config = remote.repo.gix().config_snapshot();
    let options = config.plumbing().strings("push.pushOption").unwrap_or_default();
    let last = options.rsplit(|option| option.is_empty()).next().unwrap_or_default();
    last.iter().map(|option| option.to_vec()).collect()
}

/// Fail early if `git push` would not accept the value.
fn checked(name: &str, value: &str) -> Result<String, PushOptionError> {
    PushOptions::default().set(format!("{name}={value}").as_bytes())?;
    Ok(value.to_owned())
}

fn waves(value: &str) -> Result<String, PushOptionError> {
    checked("waves", value)
}

fn confirm(value: &str) -> Result<String, PushOptionError> {
    checked("confirm", value)
}

fn lock_wait(value: &str) -> Result<String, PushOptionError> {
    checked("lock-wait", value)
}
