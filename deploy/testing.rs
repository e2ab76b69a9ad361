//! For tests: the accounts and policies of `objects/`, put into a server as its administrator does, and their tokens.

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};

const OBJECTS: [&str; 8] = [
    include_str!("api/namespace.yaml"),
    include_str!("objects/namespaces.yaml"),
    include_str!("objects/controller-access.yaml"),
    include_str!("objects/builder-access.yaml"),
    include_str!("objects/webhook-access.yaml"),
    include_str!("objects/agent-access.yaml"),
    include_str!("registry/registry-access.yaml"),
    include_str!("objects/policies.yaml"),
];

/// Applies namespaces, accounts, roles and policies.
pub(crate) async fn install(client: &Client) {
    for document in OBJECTS.iter().flat_map(|file| file.split("\n---\n")) {
        let object: DynamicObject = serde_saphyr::from_str(document).unwrap();
        let types = object.types.clone().unwrap();
        let kind = ApiResource::from_gvk(&GroupVersionKind::try_from(&types).unwrap());
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &kind),
            None => Api::all_with(client.clone(), &kind),
        };
        let name = object.name_any();
        let mut ours = PatchParams::apply("caprock-test").force();
        ours.field_validation = Some(kube::api::ValidationDirective::Strict);
        api.patch(&name, &ours, &Patch::Apply(&object))
            .await
            .unwrap_or_else(|error| panic!("{} `{name}`: {error}", types.kind));
    }
}

/// A token of an account, bound to a pod of its namespace when one is named.
pub(crate) async fn token(
    client: &Client,
    namespace: &str,
    account: &str,
    pod: Option<&str>,
) -> String {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            bound_object_ref: pod.map(|pod| BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.to_owned()),
                uid: None,
            }),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let given = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .unwrap();
    given.status.unwrap().token
}
