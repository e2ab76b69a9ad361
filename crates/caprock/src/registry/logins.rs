//! The logins of a registry as time goes on: new ones take the place of the present ones, which are good for a while more.

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use oci::Access;
use serde::{Deserialize, Serialize};

use crate::serve::login::Logins;
use crate::serve::pki::Authority;

/// How long logins are still good for after others took their place: whoever has a copy reads it anew within minutes.
const OVERLAP: SignedDuration = SignedDuration::from_hours(24);

/// What a registry keeps in its Secret.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct State {
    /// Signs the registry's certificate.
    pub(super) authority: Authority,
    logins: Logins,
    made: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<Former>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Former {
    logins: Logins,
    until: Timestamp,
}

impl State {
    pub(super) fn new(now: Timestamp) -> anyhow::Result<Self> {
        Ok(State {
            authority: Authority::new(now)?,
            logins: Logins::mint()?,
            made: now,
            former: None,
        })
    }

    /// What follows when something is due. `life`: how old logins become.
    pub(super) fn next(
        &self,
        life: SignedDuration,
        now: Timestamp,
    ) -> anyhow::Result<Option<Self>> {
        let mut next = self.clone();
        // Whoever trusts the registry reads the ConfigMap at each use, so nobody has to be waited for.
        let authority = self.authority.advanced(true, now)?;
        let mut due = authority.is_some();
        next.authority = authority.unwrap_or(next.authority);
        if now.duration_since(self.made) >= life {
            let until = now.checked_add(OVERLAP.min(life / 2));
            next.former = Some(Former {
                logins: self.logins.clone(),
                until: until.context("the end of the former logins is beyond all time")?,
            });
            next.logins = Logins::mint()?;
            next.made = now;
            due = true;
        } else if self
            .former
            .as_ref()
            .is_some_and(|former| former.until <= now)
        {
            next.former = None;
            due = true;
        }
        Ok(due.then_some(next))
    }

    /// The logins to give out.
    pub(super) fn logins(&self) -> &Logins {
        &self.logins
    }

    /// Whom the registry lets in now.
    pub(super) fn access(&self, now: Timestamp) -> Access {
        let former = self.former.iter().filter(|former| former.until > now);
        former.fold(self.logins.admit(Access::nobody()), |access, former| {
            former.logins.admit(access)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIFE: SignedDuration = SignedDuration::from_hours(720);

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + 3600 * hours).unwrap()
    }

    fn users(state: &State, hours: i64) -> usize {
        format!("{:?}", state.access(at(hours)))
            .matches("Pu")
            .count()
    }

    #[test]
    fn logins_are_replaced_with_an_overlap() {
        let first = State::new(at(0)).unwrap();
        assert!(first.next(LIFE, at(719)).unwrap().is_none());
        let second = first.next(LIFE, at(720)).unwrap().unwrap();
        assert!(second.logins() != first.logins());
        assert_eq!((users(&second, 720), users(&second, 743)), (4, 4));
        assert!(second.next(LIFE, at(743)).unwrap().is_none());
        // Nobody has to come by for the end to count.
        assert_eq!(users(&second, 744), 2);
        let third = second.next(LIFE, at(744)).unwrap().unwrap();
        assert!(third.logins() == second.logins() && third.former.is_none());
        assert!(third.next(LIFE, at(745)).unwrap().is_none());
    }

    #[test]
    fn a_short_life_has_a_short_overlap() {
        let life = SignedDuration::from_hours(2);
        let first = State::new(at(0)).unwrap();
        let second = first.next(life, at(2)).unwrap().unwrap();
        assert_eq!(second.former.as_ref().unwrap().until, at(3));
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let state = State::new(at(0)).unwrap().next(LIFE, at(720));
        let text = serde_json::to_string(&state.unwrap().unwrap()).unwrap();
        let again: State = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }
}
