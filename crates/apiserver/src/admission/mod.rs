//! ValidatingAdmissionPolicy: what administrators demand of every write, beyond schemas and roles.
//!
//! Policies and their bindings are read into one value whenever one of them is written, so that a write that no policy
//! is about costs next to nothing. What the server does by itself is not asked about, and neither are policies and bindings
//! themselves: a policy that refuses everything can still be taken away.

mod evaluate;
mod matching;
mod params;
mod policy;
mod request;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::auth::User;
use crate::cluster::Cluster;
use crate::resources::Target;
use crate::status::ApiError;
use crate::store::{Object, Revision};
use policy::{Binding, Policy};

pub(crate) use policy::{validate, validate_binding};

/// API group of policies and bindings.
pub(crate) const GROUP: &str = "admissionregistration.k8s.io";
/// Where policies are stored.
pub(crate) const POLICIES: &str = "admissionregistration.k8s.io/validatingadmissionpolicies";
/// Where their bindings are stored.
pub(crate) const BINDINGS: &str = "admissionregistration.k8s.io/validatingadmissionpolicybindings";

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A write that is about to be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Review<'a> {
    pub(crate) user: &'a User,
    /// The kind in the version of the request, and the namespace.
    pub(crate) target: &'a Target,
    pub(crate) name: &'a str,
    pub(crate) subresource: Option<&'a str>,
    pub(crate) operation: Operation,
    /// As it will be; in the version of the request.
    pub(crate) object: Option<&'a Value>,
    /// As it was.
    pub(crate) old: Option<&'a Value>,
    pub(crate) dry_run: bool,
    pub(crate) notes: &'a Notes,
}

/// What policies have to say about a request in the audit log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<BTreeMap<String, String>>>);

impl Notes {
    fn add(&self, key: String, value: String) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.insert(key, value);
    }

    /// Everything that was said.
    pub(crate) fn all(&self) -> BTreeMap<String, String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The policies that are in force at a moment.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    /// By name, with the revision that they were read from.
    policies: BTreeMap<String, (Revision, Arc<Policy>)>,
    bindings: Vec<Binding>,
}

impl Policies {
    /// What `before` made of a policy that is still the same is used again, because compiling is slow.
    pub(crate) fn new(
        policies: &[Arc<Object>],
        bindings: &[Arc<Object>],
        before: &Policies,
    ) -> Self {
        let mut known = BTreeMap::new();
        for object in policies {
            let name = object.key.name();
            let same = before
                .policies
                .get(name)
                .filter(|(revision, _)| *revision == object.revision);
            let policy = match same {
                Some((_, policy)) => policy.clone(),
                None => match Policy::parse(&object.value()) {
                    Ok(policy) => Arc::new(policy),
                    Err(causes) => {
                        tracing::error!(
                            name,
                            ?causes,
                            "a stored ValidatingAdmissionPolicy is invalid"
                        );
                        continue;
                    }
                },
            };
            known.insert(name.to_owned(), (object.revision, policy));
        }
        let bindings = bindings.iter().filter_map(|object| {
            Binding::parse(&object.value())
                .map_err(|causes| {
                    let name = object.key.name();
                    tracing::error!(
                        name,
                        ?causes,
                        "a stored ValidatingAdmissionPolicyBinding is invalid"
                    );
                })
                .ok()
        });
        Self {
            policies: known,
            bindings: bindings.collect(),
        }
    }
}

/// Asks every policy that is about a write. Returns the warnings of those that let it pass all the same.
pub(crate) fn admit(cluster: &Cluster, review: &Review<'_>) -> Result<Vec<String>, ApiError> {
    let mut warnings = Vec::new();
    if review.target.resource.group == GROUP {
        return Ok(warnings);
    }
    let policies = cluster.policies();
    for binding in &policies.bindings {
        let Some((_, policy)) = policies.policies.get(&binding.policy) else {
            continue;
        };
        for failure in evaluate::failures(cluster, policy, binding, review) {
            let message = &failure.message;
            if binding.audit {
                let key = "validation.policy.admission.k8s.io/validation_failure".to_owned();
                let actions = binding.actions();
                let note = serde_json::json!([{
                    "message": message, "policy": policy.name, "binding": binding.name,
                    "expressionIndex": failure.index, "validationActions": actions,
                }]);
                review.notes.add(key, note.to_string());
            }
            if binding.warn {
                warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {message}",
                    policy.name, binding.name
                ));
            }
            if binding.deny {
                let message = format!(
                    "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {message}",
                    policy.name, binding.name
                );
                let subject = review.target.resource.subject(review.name);
                return Err(ApiError::refused_by_policy(
                    &subject,
                    &message,
                    failure.reason,
                ));
            }
        }
    }
    Ok(warnings)
}
