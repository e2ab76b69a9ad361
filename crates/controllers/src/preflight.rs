//! The preflight: can the base image be pulled, the result pushed, and can nodes pull it? Asked as soon as a
//! MachineOSConfig is there, without moving content, and told in its conditions.
//!
//! A registry is asked when a question's inputs or Secrets are new, and seldom afterwards. Nothing waits for the answers: a
//! registry may hang, and a build finds out by itself.

mod ending;
mod question;
mod verdict;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use model::api::MachineOSConfig;
use model::condition::{self, OsConfigConditionType, Status};
use tokio::time::{Instant, timeout, timeout_at};

use crate::cache::{Cache, Change, Kind};
use crate::context::Context;
use crate::drive::Wake;
use crate::error::Result;
use crate::event::Tone;
use crate::registry::{Answer, Resolve};
use question::{Check, Question};
use verdict::Verdict;

/// Answers that are there by then are told without waiting for the others.
const FIRST_TOLD_AFTER: Duration = Duration::from_secs(2);
/// A registry that has not answered by then is taken for silent.
const ASKED_FOR: Duration = Duration::from_secs(15);
/// How soon a registry is asked again that gave no answer.
const AFTER_SILENCE: Duration = Duration::from_secs(60);
/// How soon one is asked again that said no: permissions are mended there, too.
const AFTER_NO: Duration = Duration::from_secs(5 * 60);
/// How soon one is asked again that said yes.
const AFTER_YES: Duration = Duration::from_secs(6 * 3600);

pub(crate) fn concerns(change: &Change) -> Wake {
    match change.kind {
        // A pool tells of its rendered config, and of nodes that are degraded.
        Kind::OsConfig | Kind::Pool | Kind::Secret | Kind::ConfigMap => Wake::Everyone,
        _ => Wake::Nobody,
    }
}

/// What the loop remembers: what was answered to which question, and when it is asked again.
#[derive(Debug)]
pub(crate) struct Preflight<R> {
    registries: Arc<R>,
    known: Mutex<HashMap<(String, Check), Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    inputs: String,
    verdict: Verdict,
    due: Instant,
}

impl<R: Resolve> Preflight<R> {
    pub(crate) fn new(registries: Arc<R>) -> Self {
        Preflight {
            registries,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(String, Check), Known>> {
        self.known
            .lock()
            .expect("no panic happens while the lock is held")
    }

    /// What is known about a question, and for how long.
    fn fresh(&self, config: &str, question: &Question) -> Option<Known> {
        let key = (config.to_owned(), question.check);
        let known = self.known().get(&key).cloned();
        known.filter(|known| known.inputs == question.inputs && known.due > Instant::now())
    }

    async fn ask(&self, cache: &Cache, config: &MachineOSConfig, question: &Question) {
        let (answer, secret) = match question.access(cache, config) {
            Err(failure) => (Answer::No(failure), None),
            Ok((access, secret)) => {
                let image = question.image.to_string();
                let asked = async {
                    match question.check {
                        Check::Base | Check::Nodes => {
                            self.registries.can_pull(&image, access).await
                        }
                        Check::Push => self.registries.can_push(&image, access).await,
                    }
                };
                let answer = timeout(ASKED_FOR, asked).await;
                (
                    answer.unwrap_or_else(|_| verdict::silence(question)),
                    secret,
                )
            }
        };
        let wait = match &answer {
            Answer::Yes => AFTER_YES,
            Answer::Silence(_) => AFTER_SILENCE,
            Answer::Absent(_) | Answer::No(_) => AFTER_NO,
        };
        let name = config.name_any();
        let known = Known {
            inputs: question.inputs.clone(),
            verdict: verdict::of(question, secret.as_deref(), answer),
            due: Instant::now() + spread(wait, &name),
        };
        self.known().insert((name, question.check), known);
    }
}

/// Up to a quarter longer, by name: many MachineOSConfigs do not ask at once.
fn spread(wait: Duration, name: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let percent = u32::try_from(hasher.finish() % 25).unwrap_or_default();
    wait + wait * percent / 100
}

/// One look at one MachineOSConfig.
pub(crate) async fn reconcile<R: Resolve>(
    config: Arc<MachineOSConfig>,
    ctx: Arc<Context>,
    preflight: Arc<Preflight<R>>,
) -> Result<Action> {
    if config.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let name = config.name_any();
    let gone = |name: &str| Cache::get::<MachineOSConfig>(&ctx.cache.os_configs, name).is_none();
    preflight.known().retain(|(name, _), _| !gone(name));

    let questions = question::of(&ctx.cache, &config);
    let mut asked: FuturesUnordered<_> = questions
        .iter()
        .filter(|question| preflight.fresh(&name, question).is_none())
        .map(|question| preflight.ask(&ctx.cache, &config, question))
        .collect();
    let first = Instant::now() + FIRST_TOLD_AFTER;
    while let Ok(Some(())) = timeout_at(first, asked.next()).await {}
    let mut told = config.as_ref().clone();
    if !asked.is_empty() {
        told = report(&ctx, told, &preflight, &questions).await?;
        while asked.next().await.is_some() {}
    }
    report(&ctx, told, &preflight, &questions).await?;
    Ok(again(&ctx, &config, &preflight, &questions))
}

/// When the next question is due, or something comes nearer to its end.
fn again<R: Resolve>(
    ctx: &Context,
    config: &MachineOSConfig,
    preflight: &Preflight<R>,
    questions: &[Question],
) -> Action {
    let name = config.name_any();
    let now = Instant::now();
    let due = questions
        .iter()
        .filter_map(|question| preflight.fresh(&name, question))
        .map(|known| known.due.saturating_duration_since(now));
    let next = due.chain(ending::next(&ctx.cache, config, Timestamp::now()));
    next.min()
        .map_or_else(Action::await_change, Action::requeue)
}

/// Writes what is known into the conditions, and tells of what is new there.
async fn report<R: Resolve>(
    ctx: &Context,
    config: MachineOSConfig,
    preflight: &Preflight<R>,
    questions: &[Question],
) -> Result<MachineOSConfig> {
    let now = Timestamp::now();
    let before = config.status.clone().unwrap_or_default().conditions;
    let mut after = before.clone();
    let name = config.name_any();
    for question in questions {
        let Some(known) = preflight.fresh(&name, question) else {
            continue;
        };
        let said = verdict::with_nodes(&ctx.cache, &config, question.check, known.verdict);
        let Verdict {
            status,
            reason,
            message,
        } = said;
        let kind = question.check.condition();
        condition::set(&mut after, kind, status, reason, message, now);
    }
    let (status, reason, message) = ending::condition(&ctx.cache, &config, now);
    let kind = OsConfigConditionType::CredentialsExpiring;
    condition::set(&mut after, kind, status, reason, message, now);
    if before == after {
        return Ok(config);
    }
    let mut object = config;
    object.status.get_or_insert_default().conditions = after.clone();
    let written = ctx.write_status(&object).await?;
    for kind in OsConfigConditionType::ALL {
        if *kind != OsConfigConditionType::Degraded {
            tell(ctx, &written, *kind, &before, &after).await;
        }
    }
    Ok(written)
}

/// Tells of trouble that is new, and of its end.
async fn tell(
    ctx: &Context,
    config: &MachineOSConfig,
    kind: OsConfigConditionType,
    before: &[Condition],
    after: &[Condition],
) {
    let (good, bad) = match kind {
        OsConfigConditionType::CredentialsExpiring => (Status::False, Status::True),
        _ => (Status::True, Status::False),
    };
    let said = |conditions: &[Condition], status: Status| {
        condition::get(conditions, kind)
            .filter(|found| found.status == status.as_str())
            .map(|found| (found.reason.clone(), found.message.clone()))
    };
    let was = said(before, bad);
    if let Some((reason, message)) = said(after, bad) {
        if was.as_ref() != Some(&(reason.clone(), message.clone())) {
            tracing::warn!(config = config.name_any(), condition = %kind, "{message}");
            let events = &ctx.events;
            events
                .publish(config, Tone::Warning, &reason, &message)
                .await;
        }
    } else if let (Some(_), Some((_, message))) = (was, said(after, good)) {
        let events = &ctx.events;
        events
            .publish(config, Tone::Normal, kind.as_str(), &message)
            .await;
    }
}
