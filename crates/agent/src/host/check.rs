//! Whether the running node is what it should be.

use model::update::{Policy, Version};

use super::{Host, HostError, Sight, digest_in};
use crate::configure::differences;
use crate::drift::describe;
use crate::root::Root;
use crate::state::Record;
use crate::systemd::last_words;
use crate::verify::{Verdict, judge, judge_changed};

/// How well the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// Everything is as it should be.
    Well,
    /// Not yet; may come.
    Waiting(String),
    /// Will not come by itself.
    Unwell(String),
}

impl Host {
    /// Compares the running node with a version. A unit that its disruption policy leaves alone need not run yet.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(crate) fn check(
        &self,
        sight: &Sight,
        version: &Version,
        policy: &Policy,
    ) -> Result<Health, HostError> {
        let wanted = version.image().and_then(digest_in);
        if let (Some(wanted), Some(booted)) = (wanted, sight.booted_image())
            && sight.has_booted(&wanted) == Some(false)
        {
            return Ok(Health::Unwell(format!(
                "the booted image is `{booted}`, not `{wanted}`"
            )));
        }
        // Later on, what differs is drift, which is looked for apart and does not make the deployment bad.
        let was_well = sight
            .record
            .as_ref()
            .is_some_and(|record| record.verified.is_some());
        let differing = match was_well {
            true => Vec::new(),
            false => differences(&Root::open(&self.root)?, version)?,
        };
        if !differing.is_empty() {
            return Ok(Health::Unwell(format!(
                "not as rendered config `{}` says: {}",
                version.name,
                describe(&differing)
            )));
        }
        let mut waiting = None;
        let units = &version.ignition.units;
        for unit in units.iter().filter(|unit| !unit.masked()) {
            if unit.name.contains("@.") {
                continue;
            }
            let verdict = match unit.enabled {
                Some(true) => judge,
                // The OS starts it, as it does a kubelet; here is only what the config has changed of it.
                None if !unit.dropins.is_empty() => judge_changed,
                _ => continue,
            };
            match verdict(&unit.name, &self.systemd.unit(&unit.name)?) {
                Verdict::Well => {}
                Verdict::Waiting(_) if policy.leaves_alone(&unit.name) => {}
                Verdict::Waiting(why) => waiting = waiting.or(Some(why)),
                Verdict::Unwell(why) => return Ok(Health::Unwell(why + &last_words(&unit.name))),
            }
        }
        Ok(waiting.map_or(Health::Well, Health::Waiting))
    }

    /// Remembers that the running deployment was found well in this boot.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(crate) fn confirm(&self, sight: &Sight) -> Result<(), HostError> {
        let booted = sight.deployments.booted().ok_or(HostError::NotBooted)?;
        let Some(record) = sight.record.clone() else {
            return Ok(());
        };
        self.state.set_record(
            &booted.id,
            &Record {
                verified: Some(sight.boot.clone()),
                replaced: None,
                ..record
            },
        )?;
        let on_trial = self.state.trial()?;
        match on_trial.filter(|trial| trial.deployment == booted.id.to_string()) {
            Some(_) => Ok(self.state.end_trial()?),
            None => Ok(()),
        }
    }
}
