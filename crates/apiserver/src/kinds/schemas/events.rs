//! Schemas of events and leases.

use serde_json::Value;

use super::{count, object, reference, text, time};

pub(super) fn event() -> Value {
    object(
        "Event reports that something happened to an object.",
        [
            ("involvedObject", reference("The object.")),
            ("reason", text("What happened, in one word.")),
            ("message", text("What happened, for people.")),
            ("type", text("Normal or Warning.")),
            ("action", text("What was done.")),
            ("count", count("How often it happened.")),
            ("firstTimestamp", time("When it happened first.")),
            ("lastTimestamp", time("When it happened last.")),
            ("eventTime", time("When it happened first, exactly.")),
            ("series", event_series()),
            ("source", event_source()),
            ("related", reference("Another object that is concerned.")),
            ("reportingComponent", text("Who reports.")),
            ("reportingInstance", text("Which instance reports.")),
        ],
    )
}

pub(super) fn new_event() -> Value {
    object(
        "Event reports that something happened to an object.",
        [
            ("regarding", reference("The object.")),
            ("reason", text("What happened, in one word.")),
            ("note", text("What happened, for people.")),
            ("type", text("Normal or Warning.")),
            ("action", text("What was done.")),
            ("eventTime", time("When it happened first, exactly.")),
            ("series", event_series()),
            ("related", reference("Another object that is concerned.")),
            ("reportingController", text("Who reports.")),
            ("reportingInstance", text("Which instance reports.")),
            ("deprecatedSource", event_source()),
            ("deprecatedCount", count("How often it happened.")),
            ("deprecatedFirstTimestamp", time("When it happened first.")),
            ("deprecatedLastTimestamp", time("When it happened last.")),
        ],
    )
}

fn event_series() -> Value {
    object(
        "Repetitions.",
        [
            ("count", count("How often it happened.")),
            ("lastObservedTime", time("When it happened last.")),
        ],
    )
}

fn event_source() -> Value {
    object(
        "Who reports.",
        [
            ("component", text("The component.")),
            ("host", text("The node.")),
        ],
    )
}

pub(super) fn lease() -> Value {
    object(
        "Lease says who holds something, until when.",
        [(
            "spec",
            object(
                "The lease.",
                [
                    ("holderIdentity", text("Who holds it.")),
                    (
                        "leaseDurationSeconds",
                        count("How long it holds after a renewal."),
                    ),
                    ("acquireTime", time("When the holder got it.")),
                    ("renewTime", time("When the holder last renewed it.")),
                    ("leaseTransitions", count("How often it changed hands.")),
                    ("strategy", text("How the next holder is chosen.")),
                    ("preferredHolder", text("Who should hold it.")),
                ],
            ),
        )],
    )
}
