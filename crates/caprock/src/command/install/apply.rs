//! Objects of any kind on a cluster: server-side apply, and removal.

use std::collections::HashMap;

use anyhow::{Context, anyhow};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition,
};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, TypeMeta};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Client, ResourceExt};
use model::api::v1alpha1;
use serde_json::Value;

use super::objects::name;
use crate::exit::{Failure, refused};

/// Who the fields belong to that an installation sets.
const MANAGER: &str = "caprock-install";

/// A cluster with the kinds of it that were asked for.
pub(super) struct Cluster {
    client: Client,
    kinds: HashMap<GroupVersionKind, (ApiResource, bool)>,
}

impl Cluster {
    pub(super) fn new(client: Client) -> Self {
        Cluster {
            client,
            kinds: HashMap::new(),
        }
    }

    /// Makes an object what it should be; false when it was that already.
    pub(super) async fn apply(&mut self, object: &Value) -> Result<bool, Failure> {
        let api = self.api(object).await?.ok_or_else(|| {
            refused(anyhow!(
                "the cluster has no kind `{}` of `{}`",
                text(object, "/kind"),
                text(object, "/apiVersion")
            ))
            .hint("`--with monitoring` needs the Prometheus operator")
        })?;
        let wanted = self.with_conversion(object).await?;
        let key = text(object, "/metadata/name");
        let before = api
            .get_opt(key)
            .await
            .with_context(|| format!("failed to read {}", name(object)))?;
        // Whoever installs decides; fields that the objects do not have stay with their owners.
        let params = PatchParams::apply(MANAGER).force();
        let after = api
            .patch(key, &params, &Patch::Apply(&wanted))
            .await
            .with_context(|| format!("failed to apply {}", name(object)))?;
        Ok(before.and_then(|before| before.resource_version()) != after.resource_version())
    }

    /// The webhook has told the API through the definition whom to ask for old shapes: an upgrade keeps that.
    async fn with_conversion(&self, object: &Value) -> Result<Value, Failure> {
        let key = text(object, "/metadata/name");
        if text(object, "/kind") != "CustomResourceDefinition" || !v1alpha1::CRDS.contains(&key) {
            return Ok(object.clone());
        }
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let present = definitions.get_opt(key).await?;
        let conversion = present.and_then(|present| present.spec.conversion);
        match conversion.filter(by_webhook) {
            None => Ok(object.clone()),
            Some(conversion) => {
                let wanted: CustomResourceDefinition = serde_json::from_value(object.clone())?;
                let served = v1alpha1::serve(vec![wanted], Some(&conversion));
                Ok(serde_json::to_value(&served[0])?)
            }
        }
    }

    /// Removes an object; false when there was none.
    pub(super) async fn delete(&mut self, object: &Value) -> Result<bool, Failure> {
        let Some(api) = self.api(object).await? else {
            return Ok(false);
        };
        match api
            .delete(text(object, "/metadata/name"), &DeleteParams::background())
            .await
        {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(anyhow!(error)
                .context(format!("failed to remove {}", name(object)))
                .into()),
        }
    }

    pub(super) async fn is_there(&mut self, object: &Value) -> Result<bool, Failure> {
        match self.api(object).await? {
            None => Ok(false),
            Some(api) => Ok(api.get_opt(text(object, "/metadata/name")).await?.is_some()),
        }
    }

    /// Where objects of this kind are; nothing when the cluster has no such kind.
    async fn api(&mut self, object: &Value) -> Result<Option<Api<DynamicObject>>, Failure> {
        let types = TypeMeta {
            api_version: text(object, "/apiVersion").to_owned(),
            kind: text(object, "/kind").to_owned(),
        };
        let kind = GroupVersionKind::try_from(&types)?;
        let (resource, namespaced) = match self.kinds.get(&kind) {
            Some(known) => known.clone(),
            None => match discovery::pinned_kind(&self.client, &kind).await {
                Ok((resource, capabilities)) => {
                    let known = (resource, capabilities.scope == Scope::Namespaced);
                    self.kinds.insert(kind, known.clone());
                    known
                }
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
                Err(kube::Error::Discovery(_)) => return Ok(None),
                Err(error) => {
                    return Err(anyhow!(error)
                        .context("failed to ask the cluster for its kinds")
                        .into());
                }
            },
        };
        let client = self.client.clone();
        Ok(Some(
            match (
                namespaced,
                object
                    .pointer("/metadata/namespace")
                    .and_then(Value::as_str),
            ) {
                (true, Some(namespace)) => Api::namespaced_with(client, namespace, &resource),
                _ => Api::all_with(client, &resource),
            },
        ))
    }
}

fn by_webhook(conversion: &CustomResourceConversion) -> bool {
    conversion.strategy == "Webhook"
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}
