//! Who is asking, and may they.
//!
//! A user comes from a bearer token, a service account's token or a client certificate. What it may do is the sum of
//! the rules that the server's owner handed in (for nodes, above all) and of RBAC objects in the store.

mod bootstrap;
mod certificate;
mod escalation;
mod impersonation;
pub(crate) mod policy;
pub(crate) mod service_account;
mod tokens;

use std::io;
use std::path::Path;
use std::sync::{Arc, RwLock};

use http::{HeaderMap, header};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use serde_json::Value;

pub(crate) use bootstrap::objects as bootstrap_objects;
pub(crate) use escalation::check as check_escalation;
pub(crate) use impersonation::impersonate;
use policy::Policy;
use service_account::{Claims, ISSUER, Signer};
use tokens::StaticTokens;

use crate::cluster::Cluster;
use crate::config::{Config, Extra, Names, Restriction, Rule, Token};
use crate::http::path::ResourcePath;
use crate::kinds::Resource;
use crate::status::ApiError;
use crate::store::Key;

const NODE_PREFIX: &str = "system:node:";
const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";
const LOCK: &str = "no code panics while it holds the lock of the policy";

/// An authenticated client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: Extra,
}

/// Credentials and rules of a running server.
#[derive(Debug)]
pub(crate) struct Auth {
    tokens: StaticTokens,
    pub(crate) signer: Signer,
    rules: Vec<Rule>,
    restrictions: Vec<Restriction>,
    policy: RwLock<Arc<Policy>>,
}

/// What the rules say to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The reason names what allows it; empty for rules that the owner handed in.
    Allowed {
        reason: String,
    },
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
        let name = path.name.as_deref().or(selected);
        // A namespace is in itself, for rules: a role there may allow to read it.
        let itself = path.group.is_empty() && path.resource == "namespaces";
        Self {
            verb,
            group: &path.group,
            resource: &path.resource,
            subresource: path.subresource.as_deref(),
            namespace: match itself {
                true => path.name.as_deref(),
                false => path.namespace.as_deref(),
            },
            name,
        }
    }
}

impl Auth {
    /// `key` is the file of the key that signs the tokens of service accounts.
    pub(crate) fn open(key: &Path, config: &Config) -> io::Result<Self> {
        Ok(Self {
            tokens: StaticTokens::new(config.tokens.clone()),
            signer: Signer::load_or_create(key)?,
            rules: config.rules.clone(),
            restrictions: config.restrictions.clone(),
            policy: RwLock::default(),
        })
    }

    /// Lets exactly these tokens in from now on.
    pub(crate) fn set_tokens(&self, tokens: Vec<Token>) {
        self.tokens.set(tokens);
    }

    /// Uses these roles and bindings from now on.
    pub(crate) fn set_policy(&self, policy: Policy) {
        *self.policy.write().expect(LOCK) = Arc::new(policy);
    }

    /// RBAC as it is now.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.read().expect(LOCK).clone()
    }

    /// The built-in rules that help `user` in a namespace, with the one object name that a rule is bound to.
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
        let allowed = || Decision::Allowed {
            reason: String::new(),
        };
        if user.is_master() {
            return allowed();
        }
        let own = user.name.strip_prefix(NODE_PREFIX);
        let mut decision = Decision::Denied;
        for rule in &self.rules {
            if !user.groups.contains(&rule.group) || !covers(rule, action) {
                continue;
            }
            match (rule.names, own, action.name) {
                (Names::Any, ..) => return allowed(),
                (Names::OwnName, Some(own), Some(name)) if own == name => return allowed(),
                (Names::OwnName, Some(own), None) if action.verb == "create" => {
                    decision = Decision::AllowedForName(own.to_owned());
                }
                (Names::OwnName, ..) => {}
            }
        }
        match self.policy().allows(user, action) {
            Some(reason) => Decision::Allowed { reason },
            None => decision,
        }
    }

    /// Refuses a change that a group of `user` may not make, though it may write the object.
    pub(crate) fn restrict(
        &self,
        user: &User,
        resource: &Resource,
        old: Option<&Value>,
        object: &Value,
    ) -> Result<(), ApiError> {
        let concerned = self.restrictions.iter().filter(|restriction| {
            user.groups.contains(&restriction.group)
                && restriction.api_group == resource.group
                && restriction.resource == resource.plural
        });
        for restriction in concerned {
            (restriction.check)(&user.extra, old, object).map_err(|reason| {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                ApiError::forbidden(&resource.subject(name), &reason)
            })?;
        }
        Ok(())
    }

    /// Whether `user` may do `verb` on a path that is no resource.
    pub(crate) fn authorize_path(&self, user: &User, verb: &str, path: &str) -> bool {
        user.is_master() || self.policy().allows_path(user, verb, path)
    }
}

/// The user behind a request's headers and connection. `None`: nobody we know.
pub(crate) fn authenticate(
    cluster: &Cluster,
    headers: &HeaderMap,
    certificate: Option<&CertificateDer<'_>>,
    now: Timestamp,
) -> Option<User> {
    if let Some(user) = certificate.and_then(|certificate| certificate::user(certificate, now)) {
        return Some(user);
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let secret = secret.trim();
    let audience = [ISSUER.to_owned()];
    cluster
        .auth
        .tokens
        .owner(secret)
        .or_else(|| token_user(cluster, secret, &audience, now).map(|(user, _)| user))
}

/// The service account behind a token, with the audiences of `wanted` that the token is for. The account, and what
/// the token is bound to, must still exist.
pub(crate) fn token_user(
    cluster: &Cluster,
    token: &str,
    wanted: &[String],
    now: Timestamp,
) -> Option<(User, Vec<String>)> {
    let claims = cluster.auth.signer.verify(token, now)?;
    let shared: Vec<String> = wanted
        .iter()
        .filter(|audience| claims.aud.contains(audience))
        .cloned()
        .collect();
    (!shared.is_empty() && is_alive(cluster, &claims)).then(|| (claims.user(), shared))
}

fn is_alive(cluster: &Cluster, claims: &Claims) -> bool {
    let bound = &claims.kubernetes;
    let namespace = bound.namespace.as_str();
    let references = [
        ("/serviceaccounts", namespace, Some(&bound.serviceaccount)),
        ("/pods", namespace, bound.pod.as_ref()),
        ("/secrets", namespace, bound.secret.as_ref()),
        // With a pod it tells where that runs, and the pod goes with it.
        (
            "/nodes",
            "",
            bound.node.as_ref().filter(|_| bound.pod.is_none()),
        ),
    ];
    references
        .into_iter()
        .filter_map(|(resource, namespace, reference)| Some((resource, namespace, reference?)))
        .all(|(resource, namespace, reference)| {
            let found = cluster
                .store
                .get(&Key::new(resource, namespace, &reference.name));
            found.is_some_and(|object| *object.head().metadata.uid == *reference.uid)
        })
}

/// The user of a static token, for `TokenReview`.
pub(crate) fn static_user(cluster: &Cluster, token: &str) -> Option<User> {
    cluster.auth.tokens.owner(token)
}

impl User {
    /// A user of these groups; `system:authenticated` comes by itself.
    pub(crate) fn new(name: String, mut groups: Vec<String>) -> Self {
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        Self {
            name,
            groups,
            ..Self::default()
        }
    }

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
