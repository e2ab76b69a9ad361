//! The rules, by what they are about.

mod args;
mod base;
mod files;
mod overridden;
mod packages;
mod run;
mod secrets;
mod stages;
mod style;

use super::Rule;

/// All of them, in the order in which they are listed for people.
pub(super) static ALL: [&Rule; 24] = [
    &stages::LATER_STAGE,
    &base::UNDEFINED_ARG_IN_FROM,
    &base::UNTAGGED_BASE,
    &files::UNCHECKED_DOWNLOAD,
    &packages::UPDATE_ALONE,
    &args::SECRET_IN_IMAGE,
    &secrets::PASSWORD_IN_STEP,
    &run::NO_SYSTEMD,
    &run::NO_SELINUX,
    &run::LOST_CD,
    &packages::INSTALL_ASKS,
    &run::SUDO,
    &packages::LEFT_OVER_CACHE,
    &args::ARG_NOT_IN_STAGE,
    &args::UNUSED_ARG,
    &stages::UNUSED_STAGE,
    &stages::STAGE_NAMED_TWICE,
    &overridden::CMD,
    &overridden::ENTRYPOINT,
    &overridden::HEALTHCHECK,
    &run::NOT_JSON,
    &files::RELATIVE_WORKDIR,
    &style::KEYWORD_CASE,
    &style::MAINTAINER,
];
