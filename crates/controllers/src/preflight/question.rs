//! What registries are asked about a MachineOSConfig, and with which credentials.

use model::api::{MachineConfig, MachineConfigPool, MachineOSConfig, Named};
use model::condition::OsConfigConditionType;
use model::keys;
use model::pull_spec::PullSpec;
use oci::{ClientConfig, Retry};

use crate::build::wanted;
use crate::cache::Cache;
use crate::node_secret;
use crate::registry::{self, Failure, Purpose};

/// For how long a request that failed is repeated: a question is asked again anyway.
const REPEATED_FOR: std::time::Duration = std::time::Duration::from_secs(4);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Check {
    /// Can builders pull the base image?
    Base,
    /// Can builders push the result?
    Push,
    /// Can nodes pull the result?
    Nodes,
}

impl Check {
    /// The condition that tells the answer.
    pub(super) fn condition(self) -> OsConfigConditionType {
        match self {
            Check::Base => OsConfigConditionType::BaseImagePullable,
            Check::Push => OsConfigConditionType::ImagePushable,
            Check::Nodes => OsConfigConditionType::NodesCanPull,
        }
    }
}

/// A question about one image.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) check: Check,
    /// The image.
    pub(super) image: PullSpec,
    /// Changes with everything that the answer may depend on besides the registry.
    pub(super) inputs: String,
}

/// The questions that can be asked now: without a pool or a rendered config, or with values that are no images, there
/// are fewer; the condition `Degraded` tells of those.
pub(super) fn of(cache: &Cache, config: &MachineOSConfig) -> Vec<Question> {
    let pool = &config.spec.machine_config_pool.name;
    let rendered = Cache::get::<MachineConfigPool>(&cache.pools, pool).and_then(|pool| {
        Cache::get::<MachineConfig>(&cache.machine_configs, &pool.spec.configuration.name)
    });
    let base = rendered.and_then(|rendered| wanted::base(config, &rendered.spec.os_image_url).ok());
    let push: Option<PullSpec> = config.spec.rendered_image_push_spec.parse().ok();
    let built = config.status.as_ref();
    let built = built.and_then(|status| status.current_image_pull_spec.as_ref()?.parse().ok());
    // An image of another repository is what nodes have, not what they are to have.
    let built = built.filter(|built: &PullSpec| {
        push.as_ref()
            .is_some_and(|push| push.repository() == built.repository())
    });
    let nodes = built.or_else(|| push.clone());
    let question = |check: Check, image: PullSpec| {
        let secrets: Vec<&str> = match check {
            Check::Base => vec![name(&config.spec.base_image_pull_secret)],
            Check::Push => vec![name(&config.spec.rendered_image_push_secret)],
            Check::Nodes => node_secret::names(Some(config)),
        };
        let versions = cache.access_version(secrets.iter().map(|name| Some(*name)));
        Question {
            check,
            inputs: format!("{image} {} {versions}", secrets.join(" ")),
            image,
        }
    };
    [
        (Check::Base, base),
        (Check::Push, push),
        (Check::Nodes, nodes),
    ]
    .into_iter()
    .filter_map(|(check, image)| Some(question(check, image?)))
    .collect()
}

/// The Secret that counts.
pub(super) fn name(secret: &Option<Named>) -> &str {
    let named = secret.as_ref().map(|secret| secret.name.as_str());
    named.unwrap_or(keys::GLOBAL_PULL_SECRET)
}

impl Question {
    /// Trust and credentials to ask with, and the Secret that the credentials for this image are from.
    pub(super) fn access(
        &self,
        cache: &Cache,
        config: &MachineOSConfig,
    ) -> Result<(ClientConfig, Option<String>), Failure> {
        let of_builder = |purpose, secret: &Option<Named>| {
            let named = secret.as_ref().map(|secret| secret.name.as_str());
            let access = registry::access(cache, purpose, named)?;
            let image = &self.image;
            let opened = access.auth.credentials_for(image.host(), image.path());
            let from = opened.map(|_| name(secret).to_owned());
            Ok((access, from))
        };
        let (mut access, from) = match self.check {
            Check::Base => of_builder(Purpose::Pull, &config.spec.base_image_pull_secret)?,
            Check::Push => of_builder(Purpose::Push, &config.spec.rendered_image_push_secret)?,
            Check::Nodes => {
                let (auth, from) = node_secret::of_pool(cache, config, &self.image);
                (registry::with(cache, auth), from)
            }
        };
        access.retry = Retry {
            deadline: REPEATED_FOR,
            ..access.retry
        };
        Ok((access, from))
    }
}
