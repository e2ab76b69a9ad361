//! Who is asking, and may they.

use std::sync::RwLock;

use sha2::{Digest, Sha256};

use crate::config::{Names, Rule, Token};
use crate::http::path::ResourcePath;

const NODE_PREFIX: &str = "system:node:";
const MASTERS: &str = "system:masters";
const LOCK: &str = "no code panics while it holds the lock of the tokens";

/// An authenticated client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

/// Tokens and rules of a running server.
#[derive(Debug)]
pub(crate) struct Auth {
    tokens: RwLock<Vec<Token>>,
    rules: Vec<Rule>,
}

/// What the rules say to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed,
    /// Allowed if the object turns out to have this name, which the path does not tell (create).
    AllowedForName(String),
    Denied,
}

/// An action on a resource, as rules see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Action<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    /// From the path, or from a `metadata.name` field selector of a list or watch.
    pub(crate) name: Option<&'a str>,
}

impl<'a> Action<'a> {
    pub(crate) fn new(verb: &'a str, path: &'a ResourcePath, selected: Option<&'a str>) -> Self {
        Self {
            verb,
            group: &path.group,
            resource: &path.resource,
            subresource: path.subresource.as_deref(),
            namespace: path.namespace.as_deref(),
            name: path.name.as_deref().or(selected),
        }
    }
}

impl Auth {
    pub(crate) fn new(tokens: Vec<Token>, rules: Vec<Rule>) -> Self {
        Self {
            tokens: RwLock::new(tokens),
            rules,
        }
    }

    /// Lets exactly these tokens in from now on.
    pub(crate) fn set(&self, tokens: Vec<Token>) {
        *self.tokens.write().expect(LOCK) = tokens;
    }

    /// The user behind an `Authorization` header.
    pub(crate) fn authenticate(&self, authorization: Option<&str>) -> Option<User> {
        let (scheme, secret) = authorization?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(secret.trim().as_bytes()).into();
        let tokens = self.tokens.read().expect(LOCK);
        // Every token is compared in full, so that time tells nothing.
        let mut found = None;
        for token in tokens.iter() {
            if equal(&token.sha256, &hash) {
                found = Some(token);
            }
        }
        found.map(|token| {
            let mut groups = token.groups.clone();
            groups.push("system:authenticated".into());
            User {
                name: token.name.clone(),
                groups,
            }
        })
    }

    /// The rules that help `user` in a namespace, with the one object name that a rule is bound to.
    pub(crate) fn rules_of<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Rule, Option<&'a str>)> {
        let own = user.name.strip_prefix(NODE_PREFIX);
        self.rules.iter().filter_map(move |rule| {
            let here = rule.namespace.as_deref().is_none_or(|n| n == namespace);
            let bound = match rule.names {
                Names::Any => None,
                Names::OwnName => Some(own?),
            };
            (here && user.groups.contains(&rule.group)).then_some((rule, bound))
        })
    }

    /// Whether `user` may do `action`.
    pub(crate) fn authorize(&self, user: &User, action: Action<'_>) -> Decision {
        if user.is_master() {
            return Decision::Allowed;
        }
        let own = user.name.strip_prefix(NODE_PREFIX);
        let mut decision = Decision::Denied;
        for rule in &self.rules {
            if !user.groups.contains(&rule.group) || !covers(rule, action) {
                continue;
            }
            match (rule.names, own, action.name) {
                (Names::Any, ..) => return Decision::Allowed,
                (Names::OwnName, Some(own), Some(name)) if own == name => {
                    return Decision::Allowed;
                }
                (Names::OwnName, Some(own), None) if action.verb == "create" => {
                    decision = Decision::AllowedForName(own.to_owned());
                }
                (Names::OwnName, ..) => {}
            }
        }
        decision
    }
}

impl User {
    pub(crate) fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }

    /// The sentence of a 403, without its subject.
    pub(crate) fn denial(&self, action: Action<'_>) -> String {
        let resource = match action.subresource {
            Some(subresource) => format!("{}/{subresource}", action.resource),
            None => action.resource.to_owned(),
        };
        let scope = match action.namespace {
            Some(namespace) => format!(" in the namespace {namespace:?}"),
            None => " at the cluster scope".to_owned(),
        };
        format!(
            "User {:?} cannot {} resource {resource:?} in API group {:?}{scope}",
            self.name, action.verb, action.group
        )
    }
}

fn covers(rule: &Rule, action: Action<'_>) -> bool {
    let has = |list: &[String], wanted: &str| list.iter().any(|x| x == "*" || x == wanted);
    let resource = match action.subresource {
        Some(subresource) => format!("{}/{subresource}", action.resource),
        None => action.resource.to_owned(),
    };
    has(&rule.verbs, action.verb)
        && has(&rule.api_groups, action.group)
        && has(&rule.resources, &resource)
        && rule
            .namespace
            .as_deref()
            .is_none_or(|namespace| action.namespace == Some(namespace))
}

fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(difference) == 0
}
