//! Reads what `ostree admin status` prints.

use oci::digest::Digest;

use super::super::{Deployment, Deployments, OsError, Role};

/// Ref under which an image's commit is kept; the manifest digest's hex follows.
pub(super) const IMAGE_REF: &str = "caprock/image/";

/// Understands the text of `ostree admin status`. Lines that are no deployment and no origin (versions, warnings
/// about origins of other tools) carry nothing that is needed.
pub(super) fn parse(text: &str) -> Result<Deployments, OsError> {
    let mut found: Vec<Deployment> = Vec::new();
    for line in text.lines().map(str::trim_end) {
        if let Some(refspec) = line.trim_start().strip_prefix("origin refspec: ") {
            if let Some(deployment) = found.last_mut() {
                deployment.image = image_of(refspec);
            }
        } else if let Some((booted, rest)) = deployment_line(line) {
            found.push(deployment(booted, rest, line)?);
        }
    }
    mark_unbooted(&mut found);
    Ok(Deployments(found))
}

/// Digest behind a ref of ours.
pub(super) fn image_of(refspec: &str) -> Option<Digest> {
    // A ref may be printed with a remote's name before a colon.
    let name = refspec.rsplit(':').next()?;
    Digest::from_hex(name.strip_prefix(IMAGE_REF)?).ok()
}

/// `* demo 1234….0` or `  demo 1234….0 (pending)`; details of a deployment are indented further.
fn deployment_line(line: &str) -> Option<(bool, &str)> {
    let rest = line.strip_prefix("* ").map(|rest| (true, rest));
    let (booted, rest) = rest.or_else(|| line.strip_prefix("  ").map(|rest| (false, rest)))?;
    let id = rest.split(' ').nth(1)?;
    let (checksum, serial) = id.rsplit_once('.')?;
    let is_id = checksum.len() == 64
        && checksum.bytes().all(|b| b.is_ascii_hexdigit())
        && serial.bytes().all(|b| b.is_ascii_digit());
    (is_id && !rest.starts_with(' ')).then_some((booted, rest))
}

fn deployment(booted: bool, rest: &str, line: &str) -> Result<Deployment, OsError> {
    let mut words = rest.split(' ');
    let (Some(os), Some(id)) = (words.next(), words.next()) else {
        return Err(OsError::Unexpected(format!("`{line}`")));
    };
    let notes: Vec<&str> = words.map(|word| word.trim_matches(['(', ')'])).collect();
    let role = if booted {
        Role::Booted
    } else if notes.contains(&"staged") {
        Role::Staged
    } else if notes.contains(&"pending") {
        Role::Pending
    } else if notes.contains(&"rollback") {
        Role::Rollback
    } else {
        Role::Other
    };
    Ok(Deployment {
        id: id.parse()?,
        os: os.to_owned(),
        role,
        image: None,
        named: None,
    })
}

/// On a sysroot that is not the running host's, nothing is marked: the first deployment is the next boot's.
fn mark_unbooted(found: &mut [Deployment]) {
    if found.iter().all(|d| d.role == Role::Other) {
        for (deployment, role) in found.iter_mut().zip([Role::Pending, Role::Rollback]) {
            deployment.role = role;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    fn seen(fixture: &str) -> String {
        crate::os::shown(&parse(fixture).unwrap())
    }

    #[test]
    fn booted_with_rollback() {
        insta::assert_snapshot!(seen(include_str!("fixtures/booted-with-rollback.txt")), @r"
        demo 1c7855.0 Booted a3b1c2
        demo 13a2f1.0 Rollback no image
        ");
    }

    #[test]
    fn pending_over_booted() {
        insta::assert_snapshot!(seen(include_str!("fixtures/pending-over-booted.txt")), @r"
        demo 19444f.1 Pending b4b1c2
        demo 1c7855.0 Booted a3b1c2
        demo 13a2f1.0 Rollback no image
        ");
    }

    #[test]
    fn staged_and_pinned_with_foreign_origin() {
        insta::assert_snapshot!(seen(include_str!("fixtures/staged-and-pinned.txt")), @r"
        demo 19444f.0 Staged b4b1c2
        demo 1c7855.0 Booted a3b1c2
        demo 13a2f1.0 Rollback no image
        demo 150b09.0 Other no image
        ");
    }

    #[test]
    fn sysroot_that_is_not_the_running_hosts() {
        insta::assert_snapshot!(seen(include_str!("fixtures/not-the-running-host.txt")), @r"
        demo 1c7855.0 Pending a3b1c2
        demo 13a2f1.0 Rollback no image
        ");
    }

    #[test]
    fn no_deployments() {
        assert_eq!(seen("No deployments.\n"), "");
    }
}
