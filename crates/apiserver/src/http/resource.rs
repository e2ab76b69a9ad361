//! Requests on resources: authorisation, then the operation that method and path name.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, Method, Request};
use serde_json::{Value, json};

use super::accept::Shape;
use super::body::{self, Document};
use super::encode::Encoder;
use super::path::ResourcePath;
use super::query::Query;
use super::subresource::Virtual;
use super::{success, watch};
use crate::admission::{self, Notes, Operation, Review};
use crate::auth::{Action, Decision, User};
use crate::cluster::Cluster;
use crate::patch::{self, Patch};
use crate::resources::apply::apply;
use crate::resources::create::create;
use crate::resources::delete::{DeleteOptions, Deleted, delete};
use crate::resources::update::{Proposal, replace, update};
use crate::resources::{FieldValidation, Outcome, Part, Target, WriteOptions, read};
use crate::selector::Selector;
use crate::status::{ApiError, Subject};
use crate::table::IncludeObject;

/// Everything about a request that operations need.
pub(super) struct Call<'a> {
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) target: Target,
    part: Part,
    query: Query,
    pub(super) headers: HeaderMap,
    user: &'a User,
    only_name: Option<String>,
    may_create: bool,
    notes: Notes,
}

/// Serves a request on a resource; `told` becomes its verb as soon as that is known, and `notes` what policies have to say.
pub(super) async fn serve(
    cluster: &Arc<Cluster>,
    user: &User,
    path: ResourcePath,
    request: Request<Body>,
    told: &mut Option<&'static str>,
    notes: &Notes,
) -> Result<Response, ApiError> {
    let query = Query::parse(request.uri())?;
    let verb = verb(request.method(), &path, &query)?;
    *told = Some(verb);
    let only_name = authorize(cluster, user, &path, &query, verb)?;
    let registry = cluster.registry();
    let resource = registry
        .find(&path.group, &path.version, &path.resource)
        .ok_or_else(ApiError::no_such_resource)?;
    let one = path.name.is_some();
    // Cluster-scoped kinds have no namespace; namespaced objects need one, their lists do not.
    if path.namespace.is_some() != resource.namespaced
        && (path.namespace.is_some() || one || verb == "create")
    {
        return Err(ApiError::no_such_resource());
    }
    let may_create = may_create(cluster, user, &path);
    let target = Target::new(resource, &path.version, path.namespace, path.name);
    let (part, subresource) = match path.subresource.as_deref() {
        None => (Part::Main, None),
        Some("status") if target.version().status => (Part::Status, None),
        Some(name) => (Part::Main, Some(Virtual::of(name, &target)?)),
    };
    let (head, body) = request.into_parts();
    let call = Call {
        cluster,
        target,
        part,
        query,
        headers: head.headers,
        user,
        only_name,
        may_create,
        notes: notes.clone(),
    };
    if let Some(subresource) = subresource {
        return call.virtual_part(subresource, verb, body).await;
    }
    match verb {
        "get" => call.get(),
        "list" => call.list(),
        "watch" => call.watch(),
        "create" => call.create(body).await,
        "update" => call.replace(body).await,
        "patch" => call.patch(body).await,
        "delete" => call.delete(body).await,
        "deletecollection" => call.delete_collection(body).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn verb(method: &Method, path: &ResourcePath, query: &Query) -> Result<&'static str, ApiError> {
    let one = path.name.is_some();
    let sub = path.subresource.is_some();
    match *method {
        Method::GET | Method::HEAD if path.watch || (!sub && query.flag("watch")) => Ok("watch"),
        Method::GET | Method::HEAD => Ok(if one { "get" } else { "list" }),
        Method::POST
            if !one || matches!(path.subresource.as_deref(), Some("eviction" | "token")) =>
        {
            Ok("create")
        }
        Method::PUT if one => Ok("update"),
        Method::PATCH if one => Ok("patch"),
        Method::DELETE if one && !sub => Ok("delete"),
        Method::DELETE if !one => Ok("deletecollection"),
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// The one name the user may create, if the rules bind it to one.
fn authorize(
    cluster: &Cluster,
    user: &User,
    path: &ResourcePath,
    query: &Query,
    verb: &'static str,
) -> Result<Option<String>, ApiError> {
    let selected = query.get("fieldSelector").and_then(|selector| {
        let terms = selector.split(',');
        terms
            .filter_map(|term| term.strip_prefix("metadata.name="))
            .map(|name| name.trim_start_matches('='))
            .next()
    });
    let action = Action::new(verb, path, selected);
    match cluster.auth.authorize(user, action) {
        Decision::Allowed { .. } => Ok(None),
        Decision::AllowedForName(name) => Ok(Some(name)),
        Decision::Denied => {
            let subject = Subject {
                group: path.group.clone(),
                kind: path.resource.clone(),
                name: path.name.clone().unwrap_or_default(),
            };
            Err(ApiError::forbidden(&subject, &user.denial(action)))
        }
    }
}

/// Whether the user might also have created the object: apply may do that.
fn may_create(cluster: &Cluster, user: &User, path: &ResourcePath) -> bool {
    let action = Action::new("create", path, None);
    matches!(
        cluster.auth.authorize(user, action),
        Decision::Allowed { .. }
    )
}

impl Call<'_> {
    fn encoder(&self) -> Result<Encoder<'_>, ApiError> {
        Ok(Encoder {
            target: &self.target,
            shape: self.shape()?,
            include: self.include()?,
        })
    }

    fn shape(&self) -> Result<Shape, ApiError> {
        Shape::negotiate(&self.headers, Shape::of_objects)
    }

    fn include(&self) -> Result<IncludeObject, ApiError> {
        match self.query.get("includeObject") {
            None | Some("Metadata") => Ok(IncludeObject::Metadata),
            Some("None") => Ok(IncludeObject::None),
            Some("Object") => Ok(IncludeObject::Object),
            Some(other) => Err(ApiError::bad_request(format!(
                "includeObject: unsupported value `{other}`, expected None, Metadata or Object"
            ))),
        }
    }

    fn selector(&self) -> Result<Selector, ApiError> {
        let labels = self.query.get("labelSelector").unwrap_or_default();
        let fields = self.query.get("fieldSelector").unwrap_or_default();
        Selector::parse(labels, fields, self.target.version())
    }

    pub(super) fn write_options(&self) -> Result<WriteOptions, ApiError> {
        let dry_run = self.query.all("dryRun");
        if dry_run.iter().any(|value| !matches!(*value, "All" | "")) {
            return Err(ApiError::bad_request(
                "dryRun: unsupported value, expected All",
            ));
        }
        let agent = self.headers.get(http::header::USER_AGENT);
        let agent = agent.and_then(|value| value.to_str().ok());
        let agent = agent.and_then(|text| text.split('/').next()).unwrap_or("");
        let given = self.query.get("fieldManager");
        let manager = given.unwrap_or(agent);
        if manager.len() > 128 || manager.chars().any(char::is_control) {
            return Err(ApiError::bad_request(
                "fieldManager: expected at most 128 printable characters",
            ));
        }
        Ok(WriteOptions {
            dry_run: dry_run.contains(&"All"),
            validation: match self.query.get("fieldValidation") {
                Some("Strict") => FieldValidation::Strict,
                Some("Ignore") => FieldValidation::Ignore,
                None | Some("Warn") => FieldValidation::Warn,
                Some(other) => {
                    return Err(ApiError::bad_request(format!(
                        "fieldValidation: unsupported value `{other}`, expected Ignore, Warn or Strict"
                    )));
                }
            },
            manager: if manager.is_empty() {
                "unknown"
            } else {
                manager
            }
            .into(),
            given_manager: given.map(String::from),
            force: self.query.flag("force"),
            only_name: self.only_name.clone(),
            user: Some(self.user.clone()),
            may_create: self.may_create,
            scales: false,
            notes: self.notes.clone(),
        })
    }

    pub(super) async fn document(&self, body: Body) -> Result<Document, ApiError> {
        let bytes = body::read(body).await?;
        body::parse_object(&body::media_type(&self.headers), &bytes)
    }

    fn get(&self) -> Result<Response, ApiError> {
        let requested = self.query.number("resourceVersion")?.unwrap_or(0);
        let current = self.cluster.store.revision();
        if requested > current {
            return Err(ApiError::future_version(requested, current));
        }
        let object = read::get(self.cluster, &self.target)?;
        Ok(self
            .encoder()?
            .outcome(&Outcome::new(object, false, Vec::new())))
    }

    fn list(&self) -> Result<Response, ApiError> {
        let list = read::list(self.cluster, &self.target, &self.selector()?, &self.query)?;
        let body = self.encoder()?.list(&list);
        Ok(super::encode::respond(http::StatusCode::OK, body))
    }

    fn watch(self) -> Result<Response, ApiError> {
        if super::accept::wants_yaml(&self.headers) {
            return Err(ApiError::not_acceptable(&["application/json"]));
        }
        let (shape, include) = (self.shape()?, self.include()?);
        let mut selector = self.selector()?;
        let mut target = self.target;
        if !target.name.is_empty() {
            selector = selector.and_name(&target.name);
            target.name.clear();
        }
        watch::watch(self.cluster, target, selector, &self.query, shape, include)
    }

    async fn create(&self, body: Body) -> Result<Response, ApiError> {
        let options = self.write_options()?;
        let Document { value, duplicates } = self.document(body).await?;
        let outcome = create(self.cluster, &self.target, value, &duplicates, &options).await?;
        Ok(self.encoder()?.outcome(&outcome))
    }

    async fn replace(&self, body: Body) -> Result<Response, ApiError> {
        let options = self.write_options()?;
        let Document { value, duplicates } = self.document(body).await?;
        let (cluster, target) = (self.cluster, &self.target);
        let outcome = replace(cluster, target, self.part, value, &duplicates, &options).await?;
        Ok(self.encoder()?.outcome(&outcome))
    }

    async fn patch(&self, body: Body) -> Result<Response, ApiError> {
        let options = self.write_options()?;
        let media_type = body::media_type(&self.headers);
        let bytes = body::read(body).await?;
        let custom = self.target.resource.behaviour.custom;
        let Document { value, duplicates } = match media_type == patch::APPLY {
            true => body::parse_yaml(&bytes)?,
            false => body::parse(&bytes)?,
        };
        if media_type == patch::APPLY {
            let (cluster, target) = (self.cluster, &self.target);
            let outcome = apply(cluster, target, self.part, value, &duplicates, &options).await?;
            return Ok(self.encoder()?.outcome(&outcome));
        }
        let patch = Patch::parse(&media_type, value, custom)?;
        let version = self.target.version();
        let outcome = update(self.cluster, &self.target, self.part, &options, |old| {
            Ok(Proposal {
                object: patch.apply(old, &version.schema)?,
                duplicates: duplicates.clone(),
            })
        })
        .await?;
        Ok(self.encoder()?.outcome(&outcome))
    }

    /// What the admission policies say to something other than the write of an object as it is stored. Warnings are
    /// returned to clients only with objects.
    pub(super) fn ask(
        &self,
        target: &Target,
        operation: Operation,
        subresource: Option<&str>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let review = Review {
            user: self.user,
            target,
            name: &target.name,
            subresource,
            operation,
            object,
            old,
            dry_run: self.query.all("dryRun").contains(&"All"),
            notes: &self.notes,
        };
        for warning in admission::admit(self.cluster, &review)? {
            tracing::warn!(user = self.user.name, "{warning}");
        }
        Ok(())
    }

    /// Deletes an object that the policies let go.
    async fn remove(&self, target: &Target, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        delete(self.cluster, target, options, |old| {
            self.ask(target, Operation::Delete, None, None, Some(old))
        })
        .await
    }

    async fn delete_options(&self, body: Body) -> Result<DeleteOptions, ApiError> {
        let bytes = body::read(body).await?;
        let mut options = if bytes.is_empty() {
            DeleteOptions::default()
        } else {
            let document = body::parse_object(&body::media_type(&self.headers), &bytes)?;
            serde_json::from_value(document.value).map_err(|error| {
                ApiError::bad_request(format!("malformed DeleteOptions: {error}"))
            })?
        };
        if let Some(policy) = self.query.get("propagationPolicy") {
            options.propagation_policy = Some(policy.into());
        }
        if self.query.all("dryRun").contains(&"All") {
            options.dry_run = vec!["All".into()];
        }
        Ok(options)
    }

    async fn delete(&self, body: Body) -> Result<Response, ApiError> {
        let options = self.delete_options(body).await?;
        match self.remove(&self.target, &options).await? {
            Deleted::Gone(object) => {
                let resource = &self.target.resource;
                let mut details = json!({
                    "name": self.target.name,
                    "kind": resource.plural,
                    "uid": &*object.head().metadata.uid,
                });
                if !resource.group.is_empty() {
                    details["group"] = json!(resource.group);
                }
                Ok(success(details))
            }
            Deleted::Pending(object) => {
                Ok(self
                    .encoder()?
                    .outcome(&Outcome::new(object, false, Vec::new())))
            }
        }
    }

    async fn delete_collection(&self, body: Body) -> Result<Response, ApiError> {
        let options = self.delete_options(body).await?;
        let list = read::list(self.cluster, &self.target, &self.selector()?, &self.query)?;
        for object in &list.items {
            let target = self.target.member(&object.key);
            match self.remove(&target, &options).await {
                Ok(_) => {}
                Err(error) if error.code == http::StatusCode::NOT_FOUND => {}
                Err(error) => return Err(error),
            }
        }
        Ok(super::encode::respond(
            http::StatusCode::OK,
            self.encoder()?.list(&list),
        ))
    }
}
