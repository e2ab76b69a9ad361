//! Tells the API server, through the CRDs, whom to ask and whom to trust.

use anyhow::Context;
use k8s_openapi::ByteString;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, WebhookClientConfig, WebhookConversion,
};
use kube::Client;
use kube::api::{Api, PostParams};
use model::api::v1alpha1;

/// Tells the API server through the CRDs whom to ask for other versions and whom to trust (PEM). CRDs that are not
/// installed are left out; what is as it should be is not written.
pub(super) async fn announce(
    client: &Client,
    config: &WebhookClientConfig,
    bundle: &str,
) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let conversion = CustomResourceConversion {
        strategy: "Webhook".to_owned(),
        webhook: Some(WebhookConversion {
            client_config: Some(WebhookClientConfig {
                ca_bundle: Some(ByteString(bundle.as_bytes().to_vec())),
                ..config.clone()
            }),
            conversion_review_versions: vec!["v1".to_owned()],
        }),
    };
    for name in v1alpha1::CRDS {
        let Some(present) = definitions.get_opt(name).await? else {
            tracing::warn!(
                "CustomResourceDefinition `{name}` is not installed; `caprock crds` prints it"
            );
            continue;
        };
        let wanted = v1alpha1::serve(vec![present.clone()], Some(&conversion));
        let Some(wanted) = wanted
            .into_iter()
            .next()
            .filter(|wanted| *wanted != present)
        else {
            continue;
        };
        definitions
            .replace(name, &PostParams::default(), &wanted)
            .await
            .with_context(|| format!("failed to write CustomResourceDefinition `{name}`"))?;
        tracing::info!("CustomResourceDefinition `{name}` names this webhook");
    }
    Ok(())
}
