//! The rules, by what they are about.

mod automount;
mod objects;
mod secrets;
mod sssd;
mod units;
mod validity;

use super::Rule;

/// All of them, in the order in which they are listed for people.
pub(super) static ALL: [&Rule; 22] = [
    &validity::NOT_YAML,
    &validity::UNKNOWN_FIELD,
    &validity::INVALID_OBJECT,
    &objects::NOT_FROM_CONFIGS,
    &objects::UNSELECTED_CONFIG,
    &automount::MAP_NOT_READ,
    &automount::MOUNT_BELOW_LINK,
    &automount::HIDES_HOME,
    &automount::NO_AUTOFS_RESPONDER,
    &automount::NO_PROPAGATION,
    &sssd::NO_SECTION,
    &sssd::DROP_IN_NOT_READ,
    &sssd::SSSD_MODE,
    &sssd::PLAIN_LDAP,
    &sssd::UNVERIFIED_LDAP,
    &units::UNIT_FROM_NOWHERE,
    &units::SETSEBOOL_PERSISTENT,
    &secrets::PASSWORD_IN_IMAGE_INPUT,
    &secrets::READABLE_SECRET,
    &secrets::PASSWORD_IN_MACHINECONFIG,
    &secrets::SECRET_NOT_FOR_NODES,
    &units::NOTHING_STARTS_IT,
];
