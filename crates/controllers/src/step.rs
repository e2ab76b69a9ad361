//! Writes steps of a build's life, whoever takes them.

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::Api;
use model::api::MachineOSBuild;
use model::build_state::{self, Step};

use crate::context::Context;
use crate::error::{Doing, Result};
use crate::event::Tone;

/// Takes a step, from what the build's status is now. Returns the build as it is then, or none when there is no such
/// build any more. A build that has ended stays as it ended.
pub(crate) async fn take(
    ctx: &Context,
    build: &MachineOSBuild,
    step: &Step,
) -> Result<Option<MachineOSBuild>> {
    let name = build.name_any();
    loop {
        let seen = Api::<MachineOSBuild>::all(ctx.client.clone())
            .get_opt(&name)
            .await
            .doing(|| format!("read MachineOSBuild `{name}`"))?;
        let Some(mut seen) = seen.filter(|seen| seen.uid() == build.uid()) else {
            return Ok(None);
        };
        let Some(next) = build_state::after(seen.status.as_ref(), step, Timestamp::now()) else {
            return Ok(Some(seen));
        };
        seen.status = Some(next);
        match ctx.write_status(&seen).await {
            // Somebody else took a step meanwhile: look again.
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
            Ok(written) => {
                tell(ctx, &written, step).await;
                return Ok(Some(written));
            }
        }
    }
}

async fn tell(ctx: &Context, build: &MachineOSBuild, step: &Step) {
    let (tone, reason, message) = match step {
        Step::Start { identity } => (
            Tone::Normal,
            "BuildStarted",
            format!("builder `{identity}` builds it"),
        ),
        Step::Succeed { image } => (Tone::Normal, "BuildCompleted", format!("pushed `{image}`")),
        Step::Fail { message, .. } => (Tone::Warning, "BuildFailed", message.clone()),
        Step::Interrupt { message, .. } => (Tone::Normal, "BuildInterrupted", message.clone()),
        Step::Retry { .. } | Step::Prepare | Step::Advance(_) => return,
    };
    tracing::info!(build = build.name_any(), "{reason}: {message}");
    ctx.events.publish(build, tone, reason, &message).await;
}
