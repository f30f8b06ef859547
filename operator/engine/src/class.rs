//! The class of a failure: what happens next is decided by it and by nothing else.

/// What a failure means for the retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Worth another try with backoff; the schedule is kept.
    Transient,
    /// Something else must change first: a secret, a destination, a lock held by another.
    Waiting,
    /// The declaration is wrong: report it and wait for a change of it.
    Permanent,
    /// Data is damaged: stop pruning, alert, never repair silently.
    Damaged,
}

impl ErrorClass {
    /// The word used in logs, the journal and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Waiting => "waiting",
            Self::Permanent => "permanent",
            Self::Damaged => "damaged",
        }
    }
}

/// An error that knows its class and the CamelCase reason shown in conditions.
pub trait Classified: std::error::Error {
    /// What the failure means for the retry.
    fn class(&self) -> ErrorClass;

    /// The reason for a condition, in CamelCase, from the documented list (for example
    /// `WrongPassword`, `HostKeyMismatch`, `Unreachable`).
    fn reason(&self) -> &'static str;
}
