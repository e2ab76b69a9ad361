//! The wish for one more build of the same inputs: annotation `rebuild` on a MachineOSConfig.
//!
//! The wish is turned, in one write, into a mark that is part of the build's identity. So it is granted once, whenever a
//! controller dies, and the image of the build before stays usable meanwhile.

use jiff::Timestamp;
use kube::ResourceExt;
use model::api::{MachineOSBuild, MachineOSConfig};
use model::keys;
use serde_json::json;

use crate::context::Context;
use crate::error::Result;
use crate::event::Tone;

/// Annotation of a MachineOSConfig and of its builds: when a rebuild was last asked for.
const REBUILD_OF: &str = "caprock.dev/rebuild-asked-at";
/// MachineOSBuild annotation: every step is executed, whatever the cache has.
const NO_CACHE: &str = "caprock.dev/no-cache";

/// Takes a wish in, if there is one. Returns whether there was.
pub(super) async fn take_in(ctx: &Context, config: &MachineOSConfig) -> Result<bool> {
    if !config.annotations().contains_key(keys::REBUILD) {
        return Ok(false);
    }
    let now = Timestamp::now().to_string();
    let change = json!({"metadata": {"annotations": {keys::REBUILD: null, REBUILD_OF: now}}});
    ctx.merge(config, change).await?;
    ctx.events
        .publish(
            config,
            Tone::Normal,
            "RebuildRequested",
            "the image is built again",
        )
        .await;
    Ok(true)
}

/// The wish that a MachineOSConfig's builds are for, if one was ever made.
pub(super) fn wish(config: &MachineOSConfig) -> Option<&str> {
    config.annotations().get(REBUILD_OF).map(String::as_str)
}

/// Whether a build was made for the same wish, or like `config` for none.
pub(super) fn is_for_wish_of(build: &MachineOSBuild, config: &MachineOSConfig) -> bool {
    build.annotations().get(REBUILD_OF) == config.annotations().get(REBUILD_OF)
}

/// Marks a build that is about to be made. The first one after a wish uses no cache, or it would change nothing.
pub(super) fn mark(build: &mut MachineOSBuild, config: &MachineOSConfig, first_after_wish: bool) {
    let Some(wish) = wish(config) else {
        return;
    };
    let annotations = build.annotations_mut();
    annotations.insert(REBUILD_OF.to_owned(), wish.to_owned());
    if first_after_wish {
        annotations.insert(NO_CACHE.to_owned(), String::new());
    }
}

/// Whether a build may use what the cache has.
pub(crate) fn may_use_cache(build: &MachineOSBuild) -> bool {
    !build.annotations().contains_key(NO_CACHE)
}
