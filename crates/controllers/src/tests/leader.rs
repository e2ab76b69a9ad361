//! Several controllers, of which one acts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams};
use model::keys;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::world::{World, eventually};
use crate::leader::Candidate;
use crate::lease::{Terms, holder};

const TERMS: Terms = Terms {
    duration: Duration::from_secs(2),
    renew_every: Duration::from_millis(50),
    give_up_after: Duration::from_secs(1),
};

/// A controller that counts itself among those that act while it leads.
struct Controller {
    stop: CancellationToken,
    running: JoinHandle<()>,
    terms: Arc<AtomicUsize>,
}

impl Controller {
    fn start(world: &World, identity: &str, acting: &Arc<AtomicUsize>) -> Self {
        let (stop, terms) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let candidate = Candidate {
            client: world.client.clone(),
            identity: identity.to_owned(),
            terms: TERMS,
        };
        let (acting, led, stopped) = (acting.clone(), terms.clone(), stop.clone());
        let running = tokio::spawn(async move {
            let act = |term: CancellationToken| {
                let (acting, led) = (acting.clone(), led.clone());
                async move {
                    assert_eq!(acting.fetch_add(1, Ordering::SeqCst), 0, "two act at once");
                    led.fetch_add(1, Ordering::SeqCst);
                    term.cancelled().await;
                    acting.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                }
            };
            candidate.run(act, stopped).await.unwrap();
        });
        Controller {
            stop,
            running,
            terms,
        }
    }

    async fn leads(&self, times: usize) {
        eventually("it leads", || async {
            match self.terms.load(Ordering::SeqCst) {
                led if led == times => Ok(()),
                led => Err(led),
            }
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

async fn lease(world: &World) -> Lease {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), keys::NAMESPACE);
    leases.get(keys::CONTROLLER_LEASE).await.unwrap()
}

#[tokio::test]
async fn one_leads_and_another_follows_when_it_stops_or_dies() {
    let world = World::without_loops();
    let acting = Arc::default();
    let first = Controller::start(&world, "first", &acting);
    first.leads(1).await;
    let second = Controller::start(&world, "second", &acting);
    first.stop().await;
    second.leads(1).await;

    let third = Controller::start(&world, "third", &acting);
    second.running.abort();
    assert!(second.running.await.unwrap_err().is_cancelled());
    // The dead one cannot say that it no longer acts.
    acting.store(0, Ordering::SeqCst);
    third.leads(1).await;
    let seen = lease(&world).await;
    assert_eq!(holder(&seen), Some("third"));
    assert_eq!(seen.spec.unwrap().lease_transitions, Some(2));
    third.stop().await;
    assert_eq!(holder(&lease(&world).await), None);
}

#[tokio::test]
async fn who_loses_the_lease_stops_acting_and_asks_again() {
    let world = World::without_loops();
    let acting = Arc::default();
    let only = Controller::start(&world, "only", &acting);
    only.leads(1).await;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), keys::NAMESPACE);
    leases
        .delete(keys::CONTROLLER_LEASE, &DeleteParams::default())
        .await
        .unwrap();
    only.leads(2).await;
    only.stop().await;
    assert_eq!(acting.load(Ordering::SeqCst), 0);
}
