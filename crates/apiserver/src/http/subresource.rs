//! Requests on subresources that are no part of the stored object: evictions, tokens of accounts, scales.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::resource::Call;
use super::{body, encode, token};
use crate::admission::Operation;
use crate::patch::Patch;
use crate::resources::delete::{DeleteOptions, delete};
use crate::resources::update::{Proposal, update};
use crate::resources::{Part, Target, WriteOptions, eviction, read, scale};
use crate::status::ApiError;
use crate::store::Object;

/// A subresource that is no part of the stored object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Virtual {
    Eviction,
    Token,
    Scale,
}

impl Virtual {
    /// The subresource of a name; a kind has only its own.
    pub(super) fn of(name: &str, target: &Target) -> Result<Self, ApiError> {
        let behaviour = &target.resource.behaviour;
        match name {
            "eviction" if behaviour.eviction => Ok(Virtual::Eviction),
            "token" if behaviour.tokens => Ok(Virtual::Token),
            "scale" if target.version().scale.is_some() => Ok(Virtual::Scale),
            _ => Err(ApiError::no_such_resource()),
        }
    }
}

impl Call<'_> {
    pub(super) async fn virtual_part(
        &self,
        subresource: Virtual,
        verb: &str,
        body: Body,
    ) -> Result<Response, ApiError> {
        match (subresource, verb) {
            (Virtual::Eviction, "create") => self.evict(body).await,
            (Virtual::Token, "create") => self.create_token(body).await,
            (Virtual::Scale, "get") => self.get_scale(),
            (Virtual::Scale, "update" | "patch") => self.set_scale(verb == "patch", body).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    async fn create_token(&self, body: Body) -> Result<Response, ApiError> {
        let request = self.document(body).await?.value;
        let request = token::parse(self.cluster, &self.target, request)?;
        self.ask_to_create("token", &request.shown())?;
        token::create(self.cluster, &self.target, request)
    }

    /// Asks the admission policies about a subresource that is made of the object of this request.
    fn ask_to_create(&self, subresource: &str, object: &Value) -> Result<(), ApiError> {
        let (target, part) = (&self.target, Some(subresource));
        self.ask(target, Operation::Create, part, Some(object), None)
    }

    fn get_scale(&self) -> Result<Response, ApiError> {
        let object = read::get(self.cluster, &self.target)?;
        Ok(self.scale_of(&object))
    }

    /// The answer to a request on the scale subresource.
    fn scale_of(&self, object: &Object) -> Response {
        let version = self.target.version();
        let Some(paths) = &version.scale else {
            return ApiError::no_such_resource().into_response();
        };
        encode::json(&scale::of(&version.read(object), paths))
    }

    async fn set_scale(&self, patched: bool, body: Body) -> Result<Response, ApiError> {
        let options = WriteOptions {
            scales: true,
            ..self.write_options()?
        };
        let version = self.target.version();
        let paths = version
            .scale
            .as_ref()
            .ok_or_else(ApiError::no_such_resource)?;
        let media_type = body::media_type(&self.headers);
        let bytes = body::read(body).await?;
        let (patch, given) = if patched {
            let document = body::parse(&bytes)?.value;
            (
                Some(Patch::parse(
                    &media_type,
                    document,
                    self.target.resource.behaviour.custom,
                )?),
                Value::Null,
            )
        } else {
            (None, body::parse_object(&media_type, &bytes)?.value)
        };
        let outcome = update(self.cluster, &self.target, Part::Main, &options, |old| {
            let proposed = match &patch {
                Some(patch) => patch.apply(&scale::of(old, paths), &version.schema)?,
                None => given.clone(),
            };
            Ok(Proposal {
                object: scale::set(old, paths, &proposed, &self.target)?,
                duplicates: Vec::new(),
            })
        })
        .await?;
        Ok(self.scale_of(&outcome.object))
    }

    /// Evicts a pod, if its disruption budget has pods to spare.
    async fn evict(&self, body: Body) -> Result<Response, ApiError> {
        let eviction = self.document(body).await?.value;
        let options = &eviction["deleteOptions"];
        let options = match options {
            Value::Null => DeleteOptions::default(),
            options => DeleteOptions::deserialize(options).map_err(|error| {
                ApiError::bad_request(format!("malformed deleteOptions: {error}"))
            })?,
        };
        let pod = read::get(self.cluster, &self.target)?;
        eviction::check(self.cluster, &pod, &self.target)?;
        self.ask_to_create("eviction", &eviction)?;
        // Who may evict need not be one who may delete.
        delete(self.cluster, &self.target, &options, |_| Ok(())).await?;
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        });
        let body = status.to_string().into();
        Ok(encode::respond(http::StatusCode::CREATED, body))
    }
}
