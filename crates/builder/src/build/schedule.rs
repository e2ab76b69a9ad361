//! Stages side by side: each starts when the stages that it needs are done.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;

use crate::error::BuildError;
use crate::stages::Planned;

/// Does `job` for every stage, at most `parallel` at a time, each on a thread of its own. After a failure no other
/// stage starts, and `stop` is called so that those that run end soon; the first failure is returned.
pub(super) fn run<T: Clone + Send>(
    stages: &[Planned],
    parallel: usize,
    stop: impl Fn(),
    job: impl Fn(&Planned, &BTreeMap<usize, T>) -> Result<T, BuildError> + Sync,
) -> Result<BTreeMap<usize, T>, BuildError> {
    let mut done: BTreeMap<usize, T> = BTreeMap::new();
    let mut waiting: Vec<&Planned> = stages.iter().collect();
    let mut running = 0;
    let mut failure: Option<BuildError> = None;
    let (ended, results) = mpsc::channel();
    thread::scope(|scope| {
        loop {
            while failure.is_none()
                && running < parallel
                && let Some(next) = waiting
                    .iter()
                    .position(|stage| stage.needs.iter().all(|index| done.contains_key(index)))
            {
                let stage = waiting.remove(next);
                let needed: BTreeMap<usize, T> = done
                    .iter()
                    .filter(|(index, _)| stage.needs.contains(index))
                    .map(|(index, result)| (*index, result.clone()))
                    .collect();
                let (ended, job) = (ended.clone(), &job);
                running += 1;
                scope.spawn(move || {
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        job(stage, &needed)
                    }));
                    // Who receives this waits until every thread has sent.
                    ended.send((stage.index, result)).ok();
                });
            }
            if running == 0 {
                break;
            }
            let Ok((index, result)) = results.recv() else {
                break;
            };
            running -= 1;
            match result {
                Ok(Ok(result)) => drop(done.insert(index, result)),
                Ok(Err(error)) => {
                    failure.get_or_insert(error);
                    stop();
                }
                Err(panic) => {
                    stop();
                    std::panic::resume_unwind(panic);
                }
            }
        }
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(done),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::stages::Origin;

    fn stage(index: usize, needs: &[usize]) -> Planned {
        Planned {
            index,
            base: Origin::Scratch,
            platform: None,
            needs: needs.iter().copied().collect(),
            exported: false,
            target: false,
        }
    }

    #[test]
    fn independent_stages_run_side_by_side_after_what_they_need() {
        let stages = [
            stage(0, &[]),
            stage(1, &[0]),
            stage(2, &[0]),
            stage(3, &[1, 2]),
        ];
        // Both must be there at the same time, or this waits for ever.
        let both = Barrier::new(2);
        let done = run(
            &stages,
            2,
            || {},
            |stage, needed| {
                assert_eq!(needed.keys().copied().collect::<BTreeSet<_>>(), stage.needs);
                if matches!(stage.index, 1 | 2) {
                    both.wait();
                }
                Ok(stage.index)
            },
        );
        assert_eq!(done.unwrap().len(), 4);
    }

    #[test]
    fn a_failure_stops_the_others() {
        let stages = [stage(0, &[]), stage(1, &[]), stage(2, &[0, 1])];
        let stopped = AtomicBool::new(false);
        let result = run(
            &stages,
            2,
            || stopped.store(true, Ordering::SeqCst),
            |stage, _| match stage.index {
                0 => Err(BuildError::Cancelled),
                1 => {
                    while !stopped.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    Ok(())
                }
                _ => panic!("it needs a stage that failed"),
            },
        );
        assert!(matches!(result, Err(BuildError::Cancelled)));
    }
}
