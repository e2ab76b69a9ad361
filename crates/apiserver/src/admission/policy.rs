//! Policies and bindings, from objects to what is evaluated.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::matching::Constraints;
use super::params::{ParamKind, ParamRef};
use super::request;
use crate::rules::{Expression, Known, Returns};
use crate::schema::Schema;
use crate::status::Cause;

/// Expressions of a policy at most, of each sort.
const MOST: usize = 64;

static ANYTHING: LazyLock<Schema> = LazyLock::new(Schema::anything);

/// A policy, compiled.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) name: String,
    /// What goes wrong counts as a refusal.
    pub(super) fails: bool,
    pub(super) param_kind: Option<ParamKind>,
    pub(super) constraints: Constraints,
    pub(super) conditions: Vec<Expression>,
    pub(super) variables: Vec<(String, Expression)>,
    pub(super) validations: Vec<Validation>,
    pub(super) audit_annotations: Vec<(String, Expression)>,
}

/// What a policy demands.
#[derive(Debug)]
pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: Option<String>,
    pub(super) message_expression: Option<Expression>,
    pub(super) reason: &'static str,
}

/// What puts a policy into force.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) deny: bool,
    pub(super) warn: bool,
    pub(super) audit: bool,
    pub(super) param_ref: Option<ParamRef>,
    pub(super) constraints: Option<Constraints>,
}

/// The problems of a policy that its schema does not find.
pub(crate) fn validate(policy: &Value, old: Option<&Value>) -> Vec<Cause> {
    // What was accepted before may stay.
    if old.is_some_and(|old| old["spec"] == policy["spec"]) {
        return Vec::new();
    }
    Policy::parse(policy).err().unwrap_or_default()
}

/// The problems of a binding that its schema does not find.
pub(crate) fn validate_binding(binding: &Value, _: Option<&Value>) -> Vec<Cause> {
    Binding::parse(binding).err().unwrap_or_default()
}

/// Reads the parts of a policy and collects what is wrong.
struct Reader<'a> {
    known: Vec<Known<'a>>,
    /// The variables so far.
    defined: Schema,
    causes: Vec<Cause>,
}

impl Reader<'_> {
    fn expression(&mut self, value: &Value, path: &str, returns: Returns) -> Option<Expression> {
        let Some(text) = value
            .as_str()
            .map(str::trim)
            .filter(|text| !text.is_empty())
        else {
            self.causes.push(Cause::required(path, ""));
            return None;
        };
        match Expression::compile(text, &self.known, &self.defined, returns) {
            Ok(expression) => Some(expression),
            Err(problem) => {
                self.causes.push(Cause::invalid(path, value, &problem));
                None
            }
        }
    }

    fn list<'v>(&mut self, spec: &'v Value, field: &str) -> &'v [Value] {
        let items = spec[field].as_array().map_or(&[][..], Vec::as_slice);
        if items.len() > MOST {
            let path = format!("spec.{field}");
            self.causes
                .push(Cause::too_many(path, items.len(), MOST as u64));
            return &[];
        }
        items
    }

    /// Names of a list's items, which must differ.
    fn name(&mut self, item: &Value, key: &str, path: String, before: &[String]) -> String {
        let name = item[key].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            self.causes.push(Cause::required(path, ""));
        } else if before.contains(&name) {
            self.causes.push(Cause {
                reason: "FieldValueDuplicate",
                message: format!("Duplicate value: {name:?}"),
                field: path,
            });
        }
        name
    }
}

impl Policy {
    pub(super) fn parse(policy: &Value) -> Result<Self, Vec<Cause>> {
        let spec = &policy["spec"];
        let param_kind = ParamKind::parse(&spec["paramKind"]);
        let mut known: Vec<Known<'_>> = vec![
            ("object", &ANYTHING),
            ("oldObject", &ANYTHING),
            ("request", request::schema()),
            ("namespaceObject", &ANYTHING),
        ];
        if param_kind.is_some() {
            known.push(("params", &ANYTHING));
        }
        let mut reader = Reader {
            known,
            defined: Schema::of_fields([]),
            causes: Vec::new(),
        };
        let constraints = Constraints::parse(&spec["matchConstraints"], "spec.matchConstraints");
        let constraints = constraints.unwrap_or_else(|mut causes| {
            reader.causes.append(&mut causes);
            Constraints::default()
        });
        if constraints.is_empty() && reader.causes.is_empty() {
            let path = "spec.matchConstraints.resourceRules";
            reader.causes.push(Cause::required(path, ""));
        }
        let (mut conditions, mut names) = (Vec::new(), Vec::new());
        for (index, item) in reader.list(spec, "matchConditions").iter().enumerate() {
            let at = |field: &str| format!("spec.matchConditions[{index}].{field}");
            names.push(reader.name(item, "name", at("name"), &names));
            conditions.extend(reader.expression(
                &item["expression"],
                &at("expression"),
                Returns::Bool,
            ));
        }
        let (mut variables, mut names) = (Vec::new(), Vec::new());
        for (index, item) in reader.list(spec, "variables").iter().enumerate() {
            let at = |field: &str| format!("spec.variables[{index}].{field}");
            let name = reader.name(item, "name", at("name"), &names);
            let made = reader.expression(&item["expression"], &at("expression"), Returns::Anything);
            variables.extend(made.map(|made| (name.clone(), made)));
            names.push(name);
            let fields = names.iter().map(|name| (name.clone(), Schema::anything()));
            reader.defined = Schema::of_fields(fields);
        }
        let mut validations = Vec::new();
        for (index, item) in reader.list(spec, "validations").iter().enumerate() {
            validations.extend(validation(&mut reader, item, index));
        }
        let (mut audit_annotations, mut names) = (Vec::new(), Vec::new());
        for (index, item) in reader.list(spec, "auditAnnotations").iter().enumerate() {
            let at = |field: &str| format!("spec.auditAnnotations[{index}].{field}");
            let key = reader.name(item, "key", at("key"), &names);
            let made = reader.expression(
                &item["valueExpression"],
                &at("valueExpression"),
                Returns::TextOrNull,
            );
            audit_annotations.extend(made.map(|made| (key.clone(), made)));
            names.push(key);
        }
        let has = |field: &str| spec[field].as_array().is_some_and(|list| !list.is_empty());
        if !has("validations") && !has("auditAnnotations") {
            for field in ["validations", "auditAnnotations"] {
                let detail = "validations or auditAnnotations must contain at least one item";
                reader
                    .causes
                    .push(Cause::required(format!("spec.{field}"), detail));
            }
        }
        match reader.causes.is_empty() {
            true => Ok(Self {
                name: text(&policy["metadata"]["name"]),
                fails: spec["failurePolicy"] != json!("Ignore"),
                param_kind,
                constraints,
                conditions,
                variables,
                validations,
                audit_annotations,
            }),
            false => Err(reader.causes),
        }
    }
}

fn validation(reader: &mut Reader<'_>, item: &Value, index: usize) -> Option<Validation> {
    let at = |field: &str| format!("spec.validations[{index}].{field}");
    let expression = reader.expression(&item["expression"], &at("expression"), Returns::Bool);
    let message_expression = match &item["messageExpression"] {
        Value::Null => None,
        given => reader.expression(given, &at("messageExpression"), Returns::Text),
    };
    let message = item["message"].as_str().map(str::trim);
    if message.is_some_and(|message| message.contains('\n')) {
        let detail = "must not contain line breaks";
        let cause = Cause::invalid(at("message"), &item["message"], detail);
        reader.causes.push(cause);
    }
    let reason = match item["reason"].as_str() {
        None | Some("" | "Invalid") => "Invalid",
        Some("Unauthorized") => "Unauthorized",
        Some("Forbidden") => "Forbidden",
        Some("RequestEntityTooLarge") => "RequestEntityTooLarge",
        Some(_) => {
            let supported = [
                "Forbidden",
                "Invalid",
                "RequestEntityTooLarge",
                "Unauthorized",
            ];
            let supported = supported.map(str::to_owned);
            let cause = Cause::not_supported(at("reason"), &item["reason"], &supported);
            reader.causes.push(cause);
            "Invalid"
        }
    };
    Some(Validation {
        expression: expression?,
        message: message
            .filter(|message| !message.is_empty())
            .map(str::to_owned),
        message_expression,
        reason,
    })
}

impl Binding {
    pub(super) fn parse(binding: &Value) -> Result<Self, Vec<Cause>> {
        let spec = &binding["spec"];
        let mut causes = Vec::new();
        let policy = text(&spec["policyName"]);
        if policy.is_empty() {
            causes.push(Cause::required("spec.policyName", ""));
        }
        let actions: Vec<&str> = spec["validationActions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let has = |action: &str| actions.contains(&action);
        if actions.is_empty() {
            causes.push(Cause::required("spec.validationActions", ""));
        }
        if has("Deny") && has("Warn") {
            causes.push(Cause::invalid(
                "spec.validationActions",
                &spec["validationActions"],
                "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                 response and headers serves no purpose)",
            ));
        }
        let constraints = match &spec["matchResources"] {
            Value::Null => None,
            given => Constraints::parse(given, "spec.matchResources")
                .map_err(|mut found| causes.append(&mut found))
                .ok(),
        };
        let param_ref = ParamRef::parse(&spec["paramRef"], &mut causes);
        match causes.is_empty() {
            true => Ok(Self {
                name: text(&binding["metadata"]["name"]),
                deny: has("Deny"),
                warn: has("Warn"),
                audit: has("Audit"),
                policy,
                param_ref,
                constraints,
            }),
            false => Err(causes),
        }
    }

    /// The names of what it does about failures.
    pub(super) fn actions(&self) -> Vec<&'static str> {
        let all = [
            (self.deny, "Deny"),
            (self.warn, "Warn"),
            (self.audit, "Audit"),
        ];
        all.into_iter()
            .filter_map(|(does, name)| does.then_some(name))
            .collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
