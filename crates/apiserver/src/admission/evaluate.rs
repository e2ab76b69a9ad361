//! What one policy says to one write.

use serde_json::Value;

use super::matching::{self, As};
use super::policy::{Binding, Policy, Validation};
use super::{Review, request};
use crate::cluster::Cluster;
use crate::rules::{Evaluated, Expression, Given, Run, words};
use crate::schema::Schema;

/// Bytes of a message made by an expression at most.
const MAX_MESSAGE: usize = 5 << 10;
/// Bytes of an audit annotation at most.
const MAX_ANNOTATION: usize = 10 << 10;

/// A demand that a write does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) message: String,
    pub(super) reason: &'static str,
    /// Which of the validations; the first when none of them was reached.
    pub(super) index: usize,
}

/// What a binding's policy has against a write.
pub(super) fn failures(
    cluster: &Cluster,
    policy: &Policy,
    binding: &Binding,
    review: &Review<'_>,
) -> Vec<Failure> {
    let Some(known) = policy.constraints.find(cluster, review) else {
        return Vec::new();
    };
    let wanted = binding.constraints.as_ref();
    if wanted.is_some_and(|constraints| constraints.find(cluster, review).is_none()) {
        return Vec::new();
    }
    let params = match (&policy.param_kind, &binding.param_ref) {
        (None, _) => Ok(vec![Value::Null]),
        (Some(kind), Some(reference)) => reference.find(cluster, kind, review),
        (Some(_), None) => Ok(vec![Value::Null]),
    };
    match params {
        Ok(params) => params
            .iter()
            .flat_map(|params| evaluate(cluster, policy, review, &known, params))
            .collect(),
        Err(why) => went_wrong(policy, &format!("failed to configure binding: {why}")),
    }
}

/// What goes wrong is a failure, or nothing, as the policy says.
fn went_wrong(policy: &Policy, why: &str) -> Vec<Failure> {
    let failure = Failure {
        message: why.to_owned(),
        reason: "Invalid",
        index: 0,
    };
    policy.fails.then_some(failure).into_iter().collect()
}

fn evaluate(
    cluster: &Cluster,
    policy: &Policy,
    review: &Review<'_>,
    known: &As,
    params: &Value,
) -> Vec<Failure> {
    let anything = Schema::anything();
    let shown = |object: Option<&Value>| {
        let Some(object) = object else {
            return Value::Null;
        };
        let mut object = known.convert(object, review).into_owned();
        // As long as all the rest, and the business of nobody but the server.
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        object
    };
    let (object, old) = (shown(review.object), shown(review.old));
    let namespace = matching::namespace(cluster, review).unwrap_or_default();
    let asked = request::of(review, &known.resource, &known.version);
    let mut run = Run::new(vec![
        Given::new("object", &object, &anything),
        Given::new("oldObject", &old, &anything),
        Given::new("request", &asked, request::schema()),
        Given::new("namespaceObject", &namespace, &anything),
        Given::new("params", params, &anything),
    ]);
    match is_about(&mut run, &policy.conditions) {
        Ok(true) => {}
        Ok(false) => return Vec::new(),
        Err(why) => return went_wrong(policy, &why),
    }
    for (name, expression) in &policy.variables {
        run.define(name, expression);
    }
    let mut failures = Vec::new();
    for (index, validation) in policy.validations.iter().enumerate() {
        match run.evaluate(&validation.expression) {
            Ok(Evaluated::Bool(true)) => {}
            Ok(_) => failures.push(Failure {
                message: message(&mut run, validation),
                reason: validation.reason,
                index,
            }),
            Err(why) => {
                let why = resulted(&validation.expression, &why);
                failures.extend(
                    went_wrong(policy, &why)
                        .into_iter()
                        .map(|failure| Failure { index, ..failure }),
                );
            }
        }
    }
    for (key, expression) in &policy.audit_annotations {
        match run.evaluate(expression) {
            Ok(value) => {
                if let Some(text) = words(&value, MAX_ANNOTATION) {
                    review.notes.add(format!("{}/{key}", policy.name), text);
                }
            }
            Err(why) => failures.extend(went_wrong(policy, &resulted(expression, &why))),
        }
    }
    failures
}

/// Whether all conditions hold. One that does not outweighs one that cannot be told.
fn is_about(run: &mut Run<'_>, conditions: &[Expression]) -> Result<bool, String> {
    let mut unknown = None;
    for condition in conditions {
        match run.evaluate(condition) {
            Ok(Evaluated::Bool(true)) => {}
            Ok(_) => return Ok(false),
            Err(why) => unknown = unknown.or_else(|| Some(resulted(condition, &why))),
        }
    }
    match unknown {
        Some(why) => Err(why),
        None => Ok(true),
    }
}

fn resulted(expression: &Expression, why: &str) -> String {
    format!("expression '{}' resulted in error: {why}", expression.text)
}

/// The validation's own words, else what it asked for.
fn message(run: &mut Run<'_>, validation: &Validation) -> String {
    let made = validation.message_expression.as_ref();
    let made = made.and_then(|expression| {
        let value = run.evaluate(expression).ok()?;
        words(&value, MAX_MESSAGE)
    });
    made.or_else(|| validation.message.clone())
        .unwrap_or_else(|| format!("failed expression: {}", validation.expression.text))
}
