//! What can go wrong for the agent as a whole.

use model::file_secret::SecretFile;
use thiserror::Error;

use crate::credentials::CredentialError;
use crate::host::HostError;
use crate::os::OsError;
use crate::state::StateError;

/// Why the agent could not do what it was about to do. All but the first few are tried again.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The API server cannot be reached or refuses.
    #[error("cannot {action}")]
    Api {
        /// What was asked of it.
        action: String,
        /// What came back.
        #[source]
        source: Box<kube::Error>,
    },
    /// A step on the host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The node's own credential.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// A Secret, ConfigMap or annotation that cannot be used.
    #[error("{object}: {problem}")]
    Object {
        /// Which object and field.
        object: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The controllers have not given the node what its files are to hold, which they do as soon as they can: the pool
    /// says what keeps them.
    #[error(
        "rendered config `{config}`: the node was not given the content of {}",
        listed(files)
    )]
    NotGiven {
        /// The rendered config.
        config: String,
        /// Those files.
        files: Vec<SecretFile>,
    },
    /// The node is not what it should be.
    #[error("{0}")]
    Unwell(String),
    /// A thread of the agent ended early: the process is going down.
    #[error("the step was cut short")]
    CutShort(#[source] tokio::task::JoinError),
}

impl From<StateError> for AgentError {
    fn from(error: StateError) -> Self {
        AgentError::Host(error.into())
    }
}

impl From<OsError> for AgentError {
    fn from(error: OsError) -> Self {
        AgentError::Host(error.into())
    }
}

impl AgentError {
    pub(crate) fn api(action: impl Into<String>) -> impl FnOnce(kube::Error) -> AgentError {
        let action = action.into();
        move |source| AgentError::Api {
            action,
            source: Box::new(source),
        }
    }

    /// What [`AgentError::kind`] returns.
    pub(crate) const KINDS: [&str; 7] = [
        "api",
        "host",
        "credential",
        "object",
        "not_given",
        "unwell",
        "cut_short",
    ];

    /// What failed, in a word.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            AgentError::Api { .. } => "api",
            AgentError::Host(_) => "host",
            AgentError::Credential(_) => "credential",
            AgentError::Object { .. } => "object",
            AgentError::NotGiven { .. } => "not_given",
            AgentError::Unwell(_) => "unwell",
            AgentError::CutShort(_) => "cut_short",
        }
    }

    /// Whether the API knows nobody with the agent's credential.
    pub(crate) fn is_unauthorized(&self) -> bool {
        let AgentError::Api { source, .. } = self else {
            return false;
        };
        matches!(&**source, kube::Error::Api(status) if status.code == 401)
    }

    /// Whether the API can be told of it: not when it is the API that cannot be reached.
    pub(crate) fn can_be_told(&self) -> bool {
        match self {
            AgentError::Api { source, .. } => matches!(**source, kube::Error::Api(_)),
            AgentError::CutShort(_) | AgentError::NotGiven { .. } => false,
            AgentError::Host(_)
            | AgentError::Credential(_)
            | AgentError::Object { .. }
            | AgentError::Unwell(_) => true,
        }
    }
}

fn listed(files: &[SecretFile]) -> String {
    let each = files
        .iter()
        .map(|file| format!("`{}` (Secret key `{}`)", file.path, file.from));
    each.collect::<Vec<_>>().join(", ")
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let boxed = error.downcast_ref::<Box<kube::Error>>().map(Box::as_ref);
        // The library shows the whole answer, twice.
        let answer = match boxed.or(error.downcast_ref()) {
            Some(kube::Error::Api(status)) => Some(status.message.clone()),
            Some(_) | None => None,
        };
        let is_last = answer.is_some();
        let said = answer.unwrap_or_else(|| error.to_string());
        // Many errors repeat their cause in their own words.
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source().filter(|_| !is_last);
    }
    text
}

/// Whether the API says that there is no such object.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_api_is_told_once_in_its_own_words() {
        let status =
            kube::core::Status::failure("machineconfigs `x` not found", "NotFound").with_code(404);
        let error = AgentError::api("read MachineConfig `x`")(kube::Error::Api(status.boxed()));
        assert_eq!(
            chain(&error),
            "cannot read MachineConfig `x`: machineconfigs `x` not found"
        );
    }
}
