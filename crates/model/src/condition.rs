//! Types and reasons of conditions, and the one way to set them.
//!
//! Pools have conditions of their own shape, builds and nodes have `metav1.Condition`; both keep the time of their last
//! transition as long as the status stays.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::PoolCondition;

/// A word of the API with one spelling.
pub trait Word: Copy {
    /// The word as objects hold it.
    fn as_str(self) -> &'static str;
}

macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &[$name] = &[$($name::$variant,)+];

            /// The word as objects hold it.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl Word for $name {
            fn as_str(self) -> &'static str { $name::as_str(self) }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Status of a condition.
    Status {
        True = "True",
        False = "False",
        /// Not known, or, on a MachineConfigNode, in progress.
        Unknown = "Unknown",
    }
}

impl From<bool> for Status {
    fn from(value: bool) -> Self {
        if value { Status::True } else { Status::False }
    }
}

words! {
    /// Condition types of a MachineConfigPool.
    PoolConditionType {
        Updated = "Updated",
        Updating = "Updating",
        NodeDegraded = "NodeDegraded",
        RenderDegraded = "RenderDegraded",
        ImageBuildDegraded = "ImageBuildDegraded",
        /// The pool asks for PinnedImageSets.
        PinnedImageSetsDegraded = "PinnedImageSetsDegraded",
        /// The pool asks for an OSImageStream.
        OsImageStreamDegraded = "OSImageStreamDegraded",
        /// Files of the rendered config take their content from Secrets, and cannot.
        FilesDegraded = "FilesDegraded",
        /// An agent of a node is of a version that the controllers do not work with.
        VersionSkew = "VersionSkew",
        /// Any of the degraded conditions.
        Degraded = "Degraded",
    }
}

words! {
    /// Reasons of a pool's conditions.
    PoolReason {
        AsExpected = "AsExpected",
        AllNodesUpdated = "AllNodesUpdated",
        NodesUpdating = "NodesUpdating",
        NodesDegraded = "NodesDegraded",
        Paused = "Paused",
        /// More nodes failed than may; no further one starts.
        RolloutHalted = "RolloutHalted",
        /// The nodes that are left wait for those of an earlier wave.
        WaveWaiting = "WaveWaiting",
        /// The nodes that are left wait for a maintenance window.
        WindowClosed = "WindowClosed",
        /// The pool's waves or windows cannot be read.
        InvalidSchedule = "InvalidSchedule",
        /// The machineConfigSelector is absent or selects everything.
        SelectingAll = "SelectingAll",
        /// The machineConfigSelector selects nothing.
        NoMachineConfigs = "NoMachineConfigs",
        RenderFailed = "RenderFailed",
        /// Nothing was rendered yet.
        NotRendered = "NotRendered",
        BuildPending = "BuildPending",
        Building = "Building",
        BuildSuccess = "BuildSuccess",
        BuildFailed = "BuildFailed",
        BuildInterrupted = "BuildInterrupted",
        /// The pool has no layered image.
        NoLayeredImage = "NoLayeredObjects",
        /// A Secret that a file of the rendered config is to hold is missing, is not for nodes, or lacks the key.
        SecretUnavailable = "SecretUnavailable",
        /// Versions of Caprock's parts are too far apart.
        VersionsApart = "VersionsApart",
        /// The pool asks for something that is kept and not acted on.
        NotSupported = "NotSupported",
    }
}

words! {
    /// Condition types of a MachineOSBuild; a build in a known state has one that is `True`.
    BuildConditionType {
        Prepared = "Prepared",
        Building = "Building",
        Succeeded = "Succeeded",
        Interrupted = "Interrupted",
        Failed = "Failed",
    }
}

words! {
    /// Condition types of a MachineOSConfig.
    OsConfigConditionType {
        /// No build can be made from it until it, or what it refers to, is corrected.
        Degraded = "Degraded",
        /// The registry gives the base image to builders.
        BaseImagePullable = "BaseImagePullable",
        /// The registry takes the result from builders.
        ImagePushable = "ImagePushable",
        /// The registry gives the result to nodes.
        NodesCanPull = "NodesCanPull",
        /// Credentials, or certificates of their registries, end soon or have ended.
        CredentialsExpiring = "CredentialsExpiring",
    }
}

words! {
    /// Reasons of the conditions of MachineOSBuilds and MachineOSConfigs.
    BuildReason {
        AsExpected = "AsExpected",
        Prepared = "Prepared",
        Building = "Building",
        /// The image is built and pushed.
        Ready = "Ready",
        /// A registry or the network failed; the build tries again by itself.
        Retrying = "Retrying",
        /// A later build took its place.
        Superseded = "Superseded",
        Interrupted = "Interrupted",
        /// The pool that the MachineOSConfig names does not exist.
        PoolNotFound = "PoolNotFound",
        /// The MachineOSConfig has a value that cannot be used.
        InvalidConfig = "InvalidConfig",
        InvalidContainerfile = "InvalidContainerfile",
        /// There is no base image, or it cannot be pulled.
        BaseImageUnavailable = "BaseImageUnavailable",
        /// A ConfigMap or Secret that the build takes something from is missing, or lacks what is taken.
        SourceUnavailable = "SourceUnavailable",
        /// A Secret is missing or does not hold usable credentials.
        InvalidSecret = "InvalidSecret",
        /// The registry refuses the credentials.
        Unauthorized = "Unauthorized",
        RegistryUnavailable = "RegistryUnavailable",
        /// A step of the Containerfile failed.
        StepFailed = "StepFailed",
        /// The image was built and does not fit the rendered config, or cannot boot.
        ImageCheckFailed = "ImageCheckFailed",
        PushFailed = "PushFailed",
        /// Nodes cannot pull the image.
        PullFailed = "PullFailed",
        /// There is no image yet that could be pulled.
        NotBuilt = "NotBuilt",
        /// A third of its life is left, or 30 days.
        Expiring = "Expiring",
        /// A twelfth of its life is left, or 7 days.
        ExpiringSoon = "ExpiringSoon",
        Expired = "Expired",
        /// Any other failure of the build.
        Failed = "Failed",
    }
}

words! {
    /// Condition types of a MachineConfigNode.
    NodeConditionType {
        UpdatePrepared = "UpdatePrepared",
        UpdateExecuted = "UpdateExecuted",
        UpdatePostActionComplete = "UpdatePostActionComplete",
        UpdateComplete = "UpdateComplete",
        Updated = "Updated",
        Resumed = "Resumed",
        NodeDegraded = "NodeDegraded",
        ImagePulledFromRegistry = "ImagePulledFromRegistry",
        Cordoned = "Cordoned",
        Drained = "Drained",
        AppliedFilesAndOS = "AppliedFilesAndOS",
        RebootedNode = "RebootedNode",
        Uncordoned = "Uncordoned",
    }
}

words! {
    /// Reasons of a MachineConfigNode's conditions. A phase's reason is its own name after that of the phase it is part of.
    NodeReason {
        NotYetOccurred = "NotYetOccurred",
        UpdatePrepared = "UpdatePrepared",
        UpdateExecuted = "UpdateExecuted",
        UpdatePostActionComplete = "UpdatePostActionComplete",
        UpdateComplete = "UpdateComplete",
        Updated = "Updated",
        Resumed = "Resumed",
        ImagePulledFromRegistry = "UpdateExecutedImagePulledFromRegistry",
        Cordoned = "UpdateExecutedCordoned",
        Drained = "UpdateExecutedDrained",
        AppliedFilesAndOS = "UpdateExecutedAppliedFilesAndOS",
        RebootedNode = "UpdatePostActionCompleteRebootedNode",
        Uncordoned = "UpdateCompleteUncordoned",
        AsExpected = "AsExpected",
        PullFailed = "PullFailed",
        DrainFailed = "DrainFailed",
        ApplyFailed = "ApplyFailed",
        VerifyFailed = "VerifyFailed",
        /// The node came back on its previous deployment.
        RolledBack = "RolledBack",
        ConfigDrift = "ConfigDrift",
    }
}

/// A condition of either shape.
pub trait Entry {
    /// A condition that changed to `status` at `since`.
    fn new(type_: &str, status: Status, reason: &str, message: String, since: Timestamp) -> Self;
    /// Its type.
    fn type_(&self) -> &str;
    /// Its status.
    fn status(&self) -> &str;
    /// When the status last changed, when that is known.
    fn since(&self) -> Option<Timestamp>;
}

impl Entry for PoolCondition {
    fn new(type_: &str, status: Status, reason: &str, message: String, since: Timestamp) -> Self {
        PoolCondition {
            type_: type_.to_owned(),
            status: status.as_str().to_owned(),
            last_transition_time: Some(Time(since)),
            reason: reason.to_owned(),
            message,
        }
    }

    fn type_(&self) -> &str {
        &self.type_
    }

    fn status(&self) -> &str {
        &self.status
    }

    fn since(&self) -> Option<Timestamp> {
        self.last_transition_time.as_ref().map(|time| time.0)
    }
}

impl Entry for Condition {
    fn new(type_: &str, status: Status, reason: &str, message: String, since: Timestamp) -> Self {
        Condition {
            type_: type_.to_owned(),
            status: status.as_str().to_owned(),
            last_transition_time: Time(since),
            reason: reason.to_owned(),
            message,
            observed_generation: None,
        }
    }

    fn type_(&self) -> &str {
        &self.type_
    }

    fn status(&self) -> &str {
        &self.status
    }

    fn since(&self) -> Option<Timestamp> {
        Some(self.last_transition_time.0)
    }
}

/// Sets one condition and leaves the others. The time of the last transition stays when the status does, so setting what
/// is already there changes nothing.
pub fn set<C: Entry>(
    conditions: &mut Vec<C>,
    type_: impl Word,
    status: Status,
    reason: impl Word,
    message: impl Into<String>,
    now: Timestamp,
) {
    let type_ = type_.as_str();
    let place = conditions.iter().position(|c| c.type_() == type_);
    let since = place
        .map(|at| &conditions[at])
        .filter(|c| c.status() == status.as_str())
        .and_then(C::since)
        .unwrap_or(now);
    let condition = C::new(type_, status, reason.as_str(), message.into(), since);
    match place {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// The condition of a type.
pub fn get<C: Entry>(conditions: &[C], type_: impl Word) -> Option<&C> {
    conditions.iter().find(|c| c.type_() == type_.as_str())
}

/// Whether the condition of a type is there and `True`.
pub fn is_true<C: Entry>(conditions: &[C], type_: impl Word) -> bool {
    get(conditions, type_).is_some_and(|c| c.status() == Status::True.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::constant(second, 0)
    }

    #[test]
    fn transition_time_moves_with_the_status_only() {
        let mut seen: Vec<Condition> = Vec::new();
        let mut set = |status, message: &str, now| {
            set(
                &mut seen,
                BuildConditionType::Building,
                status,
                BuildReason::Building,
                message,
                at(now),
            );
            (seen.len(), seen[0].message.clone(), seen[0].since())
        };
        assert_eq!(
            set(Status::True, "step 1", 10),
            (1, "step 1".into(), Some(at(10)))
        );
        assert_eq!(
            set(Status::True, "step 2", 20),
            (1, "step 2".into(), Some(at(10)))
        );
        assert_eq!(
            set(Status::False, "done", 30),
            (1, "done".into(), Some(at(30)))
        );
    }

    #[test]
    fn others_stay() {
        let mut seen: Vec<PoolCondition> = Vec::new();
        for &kind in PoolConditionType::ALL {
            set(
                &mut seen,
                kind,
                Status::False,
                PoolReason::AsExpected,
                "",
                at(1),
            );
        }
        set(
            &mut seen,
            PoolConditionType::Updating,
            Status::True,
            PoolReason::NodesUpdating,
            "1 of 2",
            at(2),
        );
        let text: Vec<String> = seen
            .iter()
            .map(|c| format!("{}={}", c.type_, c.status))
            .collect();
        assert_eq!(
            text.join(" "),
            "Updated=False Updating=True NodeDegraded=False RenderDegraded=False ImageBuildDegraded=False \
             PinnedImageSetsDegraded=False OSImageStreamDegraded=False FilesDegraded=False VersionSkew=False Degraded=False"
        );
        assert!(is_true(&seen, PoolConditionType::Updating));
        assert!(!is_true(&seen, PoolConditionType::Updated));
    }

    const RUNBOOK: &str = include_str!("../../../docs/runbook.md");

    #[test]
    fn the_runbook_tells_what_to_do_about_every_reason_of_trouble() {
        let pool = |reason: PoolReason| match reason {
            PoolReason::NodesDegraded
            | PoolReason::InvalidSchedule
            | PoolReason::SelectingAll
            | PoolReason::NoMachineConfigs
            | PoolReason::RenderFailed
            | PoolReason::RolloutHalted
            | PoolReason::BuildFailed
            | PoolReason::VersionsApart
            | PoolReason::SecretUnavailable
            | PoolReason::NotSupported => true,
            PoolReason::AsExpected
            | PoolReason::AllNodesUpdated
            | PoolReason::NodesUpdating
            | PoolReason::Paused
            | PoolReason::WaveWaiting
            | PoolReason::WindowClosed
            | PoolReason::NotRendered
            | PoolReason::BuildPending
            | PoolReason::Building
            | PoolReason::BuildSuccess
            | PoolReason::BuildInterrupted
            | PoolReason::NoLayeredImage => false,
        };
        let build = |reason: BuildReason| match reason {
            BuildReason::AsExpected
            | BuildReason::Prepared
            | BuildReason::Building
            | BuildReason::Ready
            | BuildReason::NotBuilt
            | BuildReason::Superseded => false,
            // Whatever comes new is trouble until somebody says otherwise here.
            _ => true,
        };
        let node = |reason: NodeReason| match reason {
            NodeReason::PullFailed
            | NodeReason::DrainFailed
            | NodeReason::ApplyFailed
            | NodeReason::VerifyFailed
            | NodeReason::RolledBack
            | NodeReason::ConfigDrift => true,
            NodeReason::NotYetOccurred
            | NodeReason::UpdatePrepared
            | NodeReason::UpdateExecuted
            | NodeReason::UpdatePostActionComplete
            | NodeReason::UpdateComplete
            | NodeReason::Updated
            | NodeReason::Resumed
            | NodeReason::ImagePulledFromRegistry
            | NodeReason::Cordoned
            | NodeReason::Drained
            | NodeReason::AppliedFilesAndOS
            | NodeReason::RebootedNode
            | NodeReason::Uncordoned
            | NodeReason::AsExpected => false,
        };
        let pools = PoolReason::ALL.iter().filter(|reason| pool(**reason));
        let builds = BuildReason::ALL.iter().filter(|reason| build(**reason));
        let nodes = NodeReason::ALL.iter().filter(|reason| node(**reason));
        let words = pools
            .map(|reason| reason.as_str())
            .chain(builds.map(|reason| reason.as_str()))
            .chain(nodes.map(|reason| reason.as_str()));
        for word in words {
            let heading = format!("\n### `{word}`\n");
            assert!(
                RUNBOOK.contains(&heading),
                "docs/runbook.md has no section `{word}`"
            );
        }
    }
}
