//! What is done to the running system once the files are in place: each thing once, in an order that works.

use std::collections::BTreeMap;
use std::fmt;

use super::Disruption;
use super::reason::{Reason, brief};

/// Something to do to the running system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Stops a unit, before its files change.
    Stop {
        /// The unit.
        unit: String,
        /// What asks for it.
        reasons: Vec<Reason>,
    },
    /// systemd reads its units again.
    DaemonReload {
        /// What asks for it.
        reasons: Vec<Reason>,
    },
    /// Reloads a unit if it is running.
    Reload {
        /// The unit.
        unit: String,
        /// What asks for it.
        reasons: Vec<Reason>,
    },
    /// Restarts a unit if it is running or has failed.
    Restart {
        /// The unit.
        unit: String,
        /// What asks for it.
        reasons: Vec<Reason>,
    },
    /// Starts a unit.
    Start {
        /// The unit.
        unit: String,
        /// Whether it is restarted if it is running already, because something that it reads changed.
        anew: bool,
        /// What asks for it.
        reasons: Vec<Reason>,
    },
}

/// What makes two actions the same. The order is that of the work: what goes stops first, systemd reads its units
/// before anything is reloaded or restarted, what is new starts last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Stop,
    DaemonReload,
    Reload,
    Restart,
    Start,
}

type Key = (Kind, String);

impl Action {
    /// How much it disturbs the node.
    pub fn disruption(&self) -> Disruption {
        match self.kind() {
            Kind::DaemonReload => Disruption::DaemonReload,
            Kind::Reload => Disruption::Reload,
            Kind::Stop | Kind::Restart | Kind::Start => Disruption::Restart,
        }
    }

    /// The unit, when it is about one.
    pub fn unit(&self) -> Option<&str> {
        match self {
            Action::DaemonReload { .. } => None,
            Action::Stop { unit, .. }
            | Action::Reload { unit, .. }
            | Action::Restart { unit, .. }
            | Action::Start { unit, .. } => Some(unit),
        }
    }

    /// What asks for it, at least one thing.
    pub fn reasons(&self) -> &[Reason] {
        match self {
            Action::DaemonReload { reasons }
            | Action::Stop { reasons, .. }
            | Action::Reload { reasons, .. }
            | Action::Restart { reasons, .. }
            | Action::Start { reasons, .. } => reasons,
        }
    }

    /// The word that policies and programs have for it.
    pub fn type_name(&self) -> &'static str {
        match self.kind() {
            Kind::Stop => "Stop",
            Kind::DaemonReload => "DaemonReload",
            Kind::Reload => "Reload",
            Kind::Restart => "Restart",
            Kind::Start => "Start",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Action::Stop { .. } => Kind::Stop,
            Action::DaemonReload { .. } => Kind::DaemonReload,
            Action::Reload { .. } => Kind::Reload,
            Action::Restart { .. } => Kind::Restart,
            Action::Start { .. } => Kind::Start,
        }
    }

    fn key(&self) -> Key {
        (self.kind(), self.unit().unwrap_or_default().to_owned())
    }

    /// Takes over the reasons of an action that this one makes unnecessary.
    fn absorb(&mut self, other: Action) {
        let restarts =
            other.kind() != Kind::Start || matches!(other, Action::Start { anew: true, .. });
        if let Action::Start { anew, .. } = self {
            *anew |= restarts;
        }
        let reasons = match self {
            Action::DaemonReload { reasons }
            | Action::Stop { reasons, .. }
            | Action::Reload { reasons, .. }
            | Action::Restart { reasons, .. }
            | Action::Start { reasons, .. } => reasons,
        };
        for reason in other.reasons() {
            if !reasons.contains(reason) {
                reasons.push(reason.clone());
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::DaemonReload { .. } => f.write_str("daemon-reload")?,
            Action::Stop { unit, .. } => write!(f, "stop {unit}")?,
            Action::Reload { unit, .. } => write!(f, "reload {unit}")?,
            Action::Restart { unit, .. } => write!(f, "restart {unit}")?,
            Action::Start { unit, .. } => write!(f, "start {unit}")?,
        }
        write!(f, ": {}", brief(self.reasons()))
    }
}

/// The actions with every unit by its own name, as `name` has it, and each thing once: an alias is no unit of its own.
///
/// # Errors
/// What `name` fails with.
pub fn by_own_names<E>(
    actions: &[Action],
    name: impl Fn(&str) -> Result<String, E>,
) -> Result<Vec<Action>, E> {
    let mut named = actions.to_vec();
    for action in &mut named {
        match action {
            Action::DaemonReload { .. } => {}
            Action::Stop { unit, .. }
            | Action::Reload { unit, .. }
            | Action::Restart { unit, .. }
            | Action::Start { unit, .. } => *unit = name(unit)?,
        }
    }
    Ok(in_order(vec![named]))
}

/// Makes one list of what each change asks for. Within what one change asks for, its order is kept; between changes a
/// stronger action on a unit makes a weaker one unnecessary. Where orders contradict each other, the first by kind and
/// name goes first.
pub(super) fn in_order(asked: Vec<Vec<Action>>) -> Vec<Action> {
    let mut before: Vec<(Key, Key)> = Vec::new();
    let mut all: BTreeMap<Key, Action> = BTreeMap::new();
    for list in asked {
        let keys: Vec<Key> = list.iter().map(Action::key).collect();
        for (at, first) in keys.iter().enumerate() {
            let later = keys[at + 1..].iter();
            before.extend(later.map(|later| (first.clone(), later.clone())));
        }
        for action in list {
            match all.get_mut(&action.key()) {
                Some(known) => known.absorb(action),
                None => drop(all.insert(action.key(), action)),
            }
        }
    }
    let mut kept: BTreeMap<Key, Action> = BTreeMap::new();
    let mut weaker = Vec::new();
    for (key, action) in &all {
        match stronger(key, &all, &before) {
            Some(stronger) => weaker.push((stronger, action.clone())),
            None => drop(kept.insert(key.clone(), action.clone())),
        }
    }
    for (key, action) in weaker {
        if let Some(stronger) = kept.get_mut(&key) {
            stronger.absorb(action);
        }
    }
    let mut sorted = Vec::new();
    while let Some(next) = kept
        .keys()
        .find(|key| is_free(key, &kept, &before))
        .or(kept.keys().next())
    {
        let next = next.clone();
        sorted.extend(kept.remove(&next));
    }
    sorted
}

/// The action that makes this one unnecessary, if there is one. A policy that asks for both of two has both.
fn stronger(key: &Key, all: &BTreeMap<Key, Action>, before: &[(Key, Key)]) -> Option<Key> {
    let (kind, unit) = key;
    let others: &[Kind] = match kind {
        Kind::Stop | Kind::DaemonReload => &[],
        Kind::Start => &[Kind::Stop],
        Kind::Restart => &[Kind::Stop, Kind::Start],
        Kind::Reload => &[Kind::Stop, Kind::Start, Kind::Restart],
    };
    let both = (key.clone(), (Kind::Restart, unit.clone()));
    others
        .iter()
        .map(|other| (*other, unit.clone()))
        .find(|other| {
            all.contains_key(other) && !(other.0 == Kind::Restart && before.contains(&both))
        })
}

/// Whether nothing that is left must come before this.
fn is_free(key: &Key, left: &BTreeMap<Key, Action>, before: &[(Key, Key)]) -> bool {
    let phase = |kind: Kind| match kind {
        Kind::Stop => 0,
        Kind::DaemonReload => 1,
        Kind::Reload | Kind::Restart => 2,
        Kind::Start => 3,
    };
    let must_wait_for = |other: &Key| match phase(other.0).cmp(&phase(key.0)) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Equal => before.contains(&(other.clone(), key.clone())),
        std::cmp::Ordering::Greater => false,
    };
    !left
        .keys()
        .any(|other| other != key && must_wait_for(other))
}
