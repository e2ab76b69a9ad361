//! Runs one loop: which objects are looked at when, one look at a time per object.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::cache::Change;
use crate::context::Context;
use crate::error::{Error, Failures, Result, chain};
use crate::telemetry::Running;

/// Whom a change concerns. Each loop names the kinds that it decides from; every other one wakes nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wake {
    Nobody,
    These(Vec<String>),
    Everyone,
}

impl Wake {
    /// The object itself, or everyone when it is not known which changed.
    pub(crate) fn of(name: Option<&str>) -> Self {
        name.map_or(Wake::Everyone, |name| Wake::These(vec![name.to_owned()]))
    }
}

/// Looks at every object of `store` once, and again whenever a change concerns it, a look asked for another or
/// failed. Ends when `stop` does, after the looks under way.
pub(crate) async fn drive<K, F, Fut>(
    name: &'static str,
    ctx: Arc<Context>,
    store: Store<K>,
    concerns: fn(&Change) -> Wake,
    reconcile: F,
    stop: CancellationToken,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    F: Fn(Arc<K>, Arc<Context>) -> Fut,
    Fut: Future<Output = Result<Action>> + Send + 'static,
{
    let failures = Arc::new(Failures::default());
    let running = Ended(ctx.telemetry.begin(name));
    let (queued, looking) = (running.0.clone(), running.0.clone());
    let queue = queue(ctx.cache.changes(), store.clone(), concerns)
        .inspect(move |object| queued.queued(&object.name))
        .map(Ok::<_, Infallible>)
        .take_until(stop.cancelled_owned());
    let looks = applier(
        |object: Arc<K>, ctx| {
            let key = object.name_any();
            let look = reconcile(object, ctx);
            let failures = failures.clone();
            let under_way = looking.look(&key);
            Box::pin(async move {
                let _under_way = under_way;
                let action = look.await?;
                failures.clear(&key);
                Ok(action)
            })
        },
        |object: Arc<K>, error: &Error, _| failures.policy(&object.name_any(), error),
        ctx,
        store,
        queue,
        controller::Config::default(),
    );
    let running = &running.0;
    looks
        .for_each(|look| async move {
            if let Err(controller::Error::ReconcilerFailed(error, _)) = &look {
                running.failed(error);
            }
            match look {
                Ok(_) => {}
                // Deleted between the change and the look.
                Err(controller::Error::ObjectNotFound(object)) => running.gone(&object.name),
                // Two loops write the same pool; the second looks again.
                Err(controller::Error::ReconcilerFailed(error, _)) if error.is_conflict() => {
                    tracing::debug!("loop" = name, "{}", chain(&error));
                }
                Err(controller::Error::ReconcilerFailed(error, _)) => {
                    tracing::warn!("loop" = name, "{}; trying again", chain(&error));
                }
                Err(error) => tracing::error!("loop" = name, "{}", chain(&error)),
            }
        })
        .await;
}

/// Says that the loop has ended, however it ends.
struct Ended(Running);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Everyone first, then whom each change concerns.
fn queue<K>(
    changes: broadcast::Receiver<Change>,
    store: Store<K>,
    concerns: fn(&Change) -> Wake,
) -> impl Stream<Item = ObjectRef<K>>
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let everyone = move || -> Vec<ObjectRef<K>> {
        let objects = store.state();
        objects
            .iter()
            .map(|object| ObjectRef::from_obj(object.as_ref()))
            .collect()
    };
    let first = everyone();
    let later = stream::unfold(changes, |mut changes| async move {
        let wake = match changes.recv().await {
            Ok(change) => Some(change),
            Err(RecvError::Lagged(_)) => None,
            Err(RecvError::Closed) => return None,
        };
        Some((wake, changes))
    });
    let later = later.flat_map(move |change| {
        let wake = change.map_or(Wake::Everyone, |change| concerns(&change));
        stream::iter(match wake {
            Wake::Nobody => Vec::new(),
            Wake::These(names) => names.iter().map(|name| ObjectRef::new(name)).collect(),
            Wake::Everyone => everyone(),
        })
    });
    stream::iter(first).chain(later)
}
