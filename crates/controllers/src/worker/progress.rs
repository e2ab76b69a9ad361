//! How far an attempt is, put together from what its builder tells: for the build's status, and lines for its log.

use std::collections::BTreeMap;

use builder::Transfer;
use model::api::{BuildProgress, Transferred};

use super::builder::Progress;
use crate::telemetry::builds::Builds;

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    counted: Builds,
    step: u32,
    steps: u32,
    message: String,
    fetched: BTreeMap<String, Transferred>,
    pushed: BTreeMap<String, Transferred>,
}

impl Told {
    /// Nothing yet; what comes is counted.
    pub(super) fn new(counted: Builds) -> Self {
        Self {
            counted,
            ..Self::default()
        }
    }

    /// Takes note of what happened. Returns a line for the log, when it is worth one.
    pub(super) fn add(&mut self, happened: Progress) -> Option<String> {
        match happened {
            Progress::Line(line) => Some(line),
            Progress::Cached { step } => {
                self.counted.cached();
                Some(format!("step {step} is in the cache"))
            }
            Progress::Step { step, steps, text } => {
                self.counted.step();
                let line = format!("[{step}/{steps}] {text}");
                (self.step, self.steps, self.message) = (step, steps, text);
                Some(line)
            }
            Progress::Pushing => {
                self.message = "the image is pushed".to_owned();
                None
            }
            Progress::Bytes {
                transfer,
                blob,
                done,
                total,
            } => {
                let (verb, blobs) = match transfer {
                    Transfer::Fetch => ("fetched", &mut self.fetched),
                    Transfer::Push => ("pushed", &mut self.pushed),
                };
                let seen = blobs.entry(blob.clone()).or_default();
                let was_there = seen.total == total && seen.done == total;
                self.counted.moved(transfer, done.saturating_sub(seen.done));
                *seen = Transferred { done, total };
                (done == total && !was_there).then(|| format!("{verb} {blob} ({total} bytes)"))
            }
        }
    }

    /// What the build's status says.
    pub(super) fn progress(&self) -> BuildProgress {
        BuildProgress {
            step: self.step,
            steps: self.steps,
            message: self.message.clone(),
            fetched: sum(&self.fetched),
            pushed: sum(&self.pushed),
        }
    }
}

fn sum(blobs: &BTreeMap<String, Transferred>) -> Option<Transferred> {
    let add = |sum: Transferred, blob: &Transferred| Transferred {
        done: sum.done.saturating_add(blob.done),
        total: sum.total.saturating_add(blob.total),
    };
    (!blobs.is_empty()).then(|| blobs.values().fold(Transferred::default(), add))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bytes(transfer: Transfer, blob: &str, done: u64, total: u64) -> Progress {
        Progress::Bytes {
            transfer,
            blob: blob.to_owned(),
            done,
            total,
        }
    }

    #[test]
    fn bytes_of_all_blobs_are_added_and_each_arrival_is_logged_once() {
        let mut told = Told::default();
        let step = Progress::Step {
            step: 2,
            steps: 3,
            text: "RUN true".to_owned(),
        };
        assert_eq!(told.add(step).unwrap(), "[2/3] RUN true");
        assert_eq!(told.progress().pushed, None);
        assert_eq!(told.add(bytes(Transfer::Push, "a", 5, 10)), None);
        assert_eq!(
            told.add(bytes(Transfer::Push, "a", 10, 10)).unwrap(),
            "pushed a (10 bytes)"
        );
        assert_eq!(told.add(bytes(Transfer::Push, "a", 10, 10)), None);
        assert_eq!(told.add(bytes(Transfer::Push, "b", 1, 7)), None);
        assert_eq!(
            told.add(bytes(Transfer::Fetch, "a", 3, 3)).unwrap(),
            "fetched a (3 bytes)"
        );
        told.add(Progress::Pushing);
        let progress = told.progress();
        assert_eq!((progress.step, progress.steps), (2, 3));
        assert_eq!(progress.message, "the image is pushed");
        assert_eq!(
            progress.pushed,
            Some(Transferred {
                done: 11,
                total: 17
            })
        );
        assert_eq!(progress.fetched, Some(Transferred { done: 3, total: 3 }));
    }
}
