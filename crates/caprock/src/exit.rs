//! Exit statuses and the one place where errors become text for a person.

use std::process::ExitCode;

/// How a command ended badly, and for whom the message is.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    source: anyhow::Error,
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The user's input or the cluster's state says no: the message names object and field.
    Refused,
    /// Wrong invocation or something nobody planned for.
    Unexpected,
}

impl Failure {
    /// Adds a line that says what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The outermost cause of a type.
    pub(crate) fn cause<E: std::error::Error + Send + Sync + 'static>(&self) -> Option<&E> {
        self.source.chain().find_map(|cause| cause.downcast_ref())
    }

    /// The whole chain of causes in one text.
    pub(crate) fn words(&self) -> String {
        let causes: Vec<String> = self.source.chain().map(ToString::to_string).collect();
        causes.join(": ")
    }

    fn code(&self) -> u8 {
        match self.kind {
            Kind::Refused => 1,
            Kind::Unexpected => 2,
        }
    }
}

/// Anything passed up with `?` is unexpected unless a command says otherwise.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(source: E) -> Self {
        Failure {
            kind: Kind::Unexpected,
            source: source.into(),
            hint: None,
        }
    }
}

/// The user's input or the cluster's state says no (exit status 1).
pub(crate) fn refused(source: impl Into<anyhow::Error>) -> Failure {
    Failure {
        kind: Kind::Refused,
        source: source.into(),
        hint: None,
    }
}

/// A failure that is not the user's (exit status 2).
pub(crate) fn unexpected(message: impl std::fmt::Display) -> Failure {
    anyhow::anyhow!("{message}").into()
}

/// Prints the chain of causes and returns the process's exit status.
pub(crate) fn report(failure: &Failure, verbose: u8) -> ExitCode {
    let mut text = format!("error: {}\n", failure.source);
    let mut previous = failure.source.to_string();
    for cause in failure.source.chain().skip(1) {
        let cause = cause.to_string();
        // Many error types repeat their source in their own text.
        if verbose > 0 || !previous.contains(&cause) {
            text.push_str(&format!("  caused by: {cause}\n"));
        }
        previous = cause;
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("hint: {hint}\n"));
    }
    crate::output::words(&text);
    ExitCode::from(failure.code())
}
