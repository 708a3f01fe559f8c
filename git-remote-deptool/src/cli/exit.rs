//! The exit statuses of `git deptool`. `-h` and the manual are checked against this list.

use std::process::ExitCode;

/// The exit statuses.
///
/// All subcommands use the first three. The others say why a deployment failed, or would fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Done,
    Failed,
    Usage,
    Changes,
    RolledBack,
    Unreachable,
    Busy,
    Stale,
    Unknown,
    Declined,
}

impl ExitStatus {
    /// All statuses, in numeric order.
    pub const ALL: [ExitStatus; 10] = [
        ExitStatus::Done,
        ExitStatus::Failed,
        ExitStatus::Changes,
        ExitStatus::RolledBack,
        ExitStatus::Unreachable,
        ExitStatus::Busy,
        ExitStatus::Stale,
        ExitStatus::Unknown,
        ExitStatus::Declined,
        ExitStatus::Usage,
    ];

    /// The number.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Done => 0,
            ExitStatus::Failed => 1,
            ExitStatus::Changes => 2,
            ExitStatus::RolledBack => 3,
            ExitStatus::Unreachable => 4,
            ExitStatus::Busy => 5,
            ExitStatus::Stale => 6,
            ExitStatus::Unknown => 7,
            ExitStatus::Declined => 8,
            // As for Git's own commands.
            ExitStatus::Usage => 129,
        }
    }

    /// The more severe one of two.
    pub fn worse(self, other: ExitStatus) -> ExitStatus {
        const FROM_WORST: [ExitStatus; 10] = [
            ExitStatus::Unknown,
            ExitStatus::RolledBack,
            ExitStatus::Stale,
            ExitStatus::Busy,
            ExitStatus::Unreachable,
            ExitStatus::Failed,
            ExitStatus::Usage,
            ExitStatus::Declined,
            ExitStatus::Changes,
            ExitStatus::Done,
        ];
        FROM_WORST.into_iter().find(|status| [self, other].contains(status)).unwrap_or(self)
    }

    /// The description.
    pub fn words(self) -> &'static str {
        match self {
            ExitStatus::Done => "done, or nothing to do",
            ExitStatus::Failed => "any other error",
            ExitStatus::Changes => "there are differences (plan and status: only with --exit-code)",
            ExitStatus::RolledBack => "a host failed and was rolled back",
            ExitStatus::Unreachable => "a host can't be reached",
            ExitStatus::Busy => "a host is locked by another deployment",
            ExitStatus::Stale => "a host does not run what the plan was made from",
            ExitStatus::Unknown => "the outcome of a deployment is not known",
            ExitStatus::Declined => "the question was answered with no, or could not be asked",
            ExitStatus::Usage => "the command line is wrong",
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> ExitCode {
        ExitCode::from(status.code())
    }
}

/// The table of exit statuses for `-h`.
pub(super) fn table() -> String {
    let lines = ExitStatus::ALL.map(|status| format!("  {:>3}  {}\n", status.code(), status.words()));
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_is_that_of_the_host_that_matters_most() {
        use ExitStatus::*;
        assert_eq!([Done.worse(Done), Done.worse(Failed), Unreachable.worse(RolledBack)], [Done, Failed, RolledBack]);
        assert_eq!([Unknown.worse(RolledBack), Stale.worse(Busy)], [Unknown, Stale]);
        assert_eq!([Changes.worse(Unreachable), Failed.worse(Unreachable)], [Unreachable, Unreachable]);
        assert!(ExitStatus::ALL.iter().all(|status| status.worse(*status) == *status));
    }

    #[test]
    fn each_has_a_number_of_its_own() {
        assert!(ExitStatus::ALL.is_sorted_by(|a, b| a.code() < b.code()));
    }
}
