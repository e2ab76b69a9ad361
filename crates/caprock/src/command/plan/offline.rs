//! Two configurations compared as one node would see them, without a server.

use camino::Utf8Path;
use model::api::MachineOSConfig;
use model::update::{Listed, Policy, Reason, Update, rebuild};
use serde::Serialize;

use super::text;
use crate::exit::Failure;
use crate::manifests::Manifests;
use crate::output::{self, Format};
use crate::side::Side;

/// What it takes to go from one to the other.
#[derive(Debug, Serialize)]
struct Comparison {
    disruption: &'static str,
    actions: Vec<Listed>,
    /// Whether a pool with a layered image builds a new one.
    rebuild: bool,
    #[serde(skip)]
    text: String,
}

pub(super) fn run(
    from: &Utf8Path,
    to: &Utf8Path,
    policy: Option<&Utf8Path>,
    pool: Option<&str>,
    format: Format,
) -> Result<(), Failure> {
    let (mut from, mut to) = (Side::read(from, pool)?, Side::read(to, pool)?);
    let configuration = match policy {
        Some(path) => Manifests::read(&[path.to_owned()])?.configuration,
        None => to.configuration.take(),
    };
    let user = configuration.and_then(|found| found.spec.node_disruption_policy);
    let policy = user.as_ref().map(Policy::of).unwrap_or_default();
    let recipe = to.image.as_ref().map(super::build::containerfile);
    let mut inputs = rebuild(&from.version, &to.version, &recipe.unwrap_or_default());
    inputs.extend(super::build::differences(
        from.image.as_ref(),
        to.image.as_ref(),
    ));
    from.version.layered_image = from.image.as_ref().map(|image| stand_in(image, false));
    to.version.layered_image = to
        .image
        .as_ref()
        .map(|image| stand_in(image, !inputs.is_empty()));
    let update = Update::between(&from.version, &to.version, &[], &policy);
    let comparison = Comparison {
        disruption: update.disruption.name(),
        actions: update.listed(),
        rebuild: !inputs.is_empty(),
        text: words(&update, &inputs, to.image.is_some()),
    };
    Ok(output::value(format, &comparison, |comparison| {
        comparison.text.clone()
    })?)
}

/// What stands for an image that no registry was asked for.
fn stand_in(image: &MachineOSConfig, new: bool) -> String {
    let push = &image.spec.rendered_image_push_spec;
    match new {
        true => format!("{push} (new)"),
        false => push.clone(),
    }
}

fn words(update: &Update, inputs: &[Reason], layered: bool) -> String {
    let mut words = format!("{update:#}\n");
    words.push_str(&text::details(update, "  "));
    if !inputs.is_empty() {
        let pools = match layered {
            true => "new image",
            false => "a pool with a layered image builds a new one and reboots into it",
        };
        words.push_str(&format!("{pools}: {}\n", text::reasons(inputs)));
    }
    words
}
