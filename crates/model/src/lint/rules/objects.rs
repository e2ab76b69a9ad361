//! Pools, MachineConfigs and MachineOSConfigs, and how they refer to each other.

use crate::keys;
use crate::layering::CONFIGS_STAGE;
use crate::lint::text::words;
use crate::lint::{Level, Rule};
use crate::problem::did_you_mean;

pub(in crate::lint) static NOT_FROM_CONFIGS: Rule = Rule {
    id: "not-from-configs",
    level: Level::Warning,
    explanation: "`FROM configs` is the pool's base image with what its builds need. A Containerfile without it builds an \
                  image that has nothing to do with what the nodes run now: another kernel, no agent, perhaps no systemd. \
                  Write `FROM configs AS final`; other stages may start from whatever they like.",
    check: |seen, report| {
        for (item, image) in seen.images() {
            for (index, file) in image.spec.container_file.iter().enumerate() {
                let words: Vec<&str> = words(&file.content).collect();
                let starts = words.windows(2).any(|pair| {
                    pair[0].eq_ignore_ascii_case("from")
                        && pair[1].eq_ignore_ascii_case(CONFIGS_STAGE)
                });
                if !starts {
                    report.tell(
                        item,
                        &format!("spec.containerFile[{index}].content"),
                        "no stage starts `FROM configs`, the base image of the pool",
                        "write `FROM configs AS final`",
                    );
                }
            }
        }
    },
};

pub(in crate::lint) static UNSELECTED_CONFIG: Rule = Rule {
    id: "unselected-config",
    level: Level::Warning,
    explanation: "A pool takes MachineConfigs by their label `machineconfiguration.openshift.io/role`. One without the \
                  label, or with a role that is nearly that of a pool, is taken by nobody and does nothing.",
    check: |seen, report| {
        let pools: Vec<_> = seen.pools().collect();
        for (item, config, _) in seen.configs() {
            let taken = pools.iter().any(|pool| {
                let mut configs = pool.configs.iter();
                configs.any(|taken| std::ptr::eq(*taken, item))
            });
            if taken {
                continue;
            }
            let Some(role) = item.role() else {
                let unlabelled = config
                    .metadata
                    .labels
                    .as_ref()
                    .is_none_or(|labels| labels.is_empty());
                if unlabelled {
                    report.tell(
                        item,
                        "metadata.labels",
                        format!("has no label `{}`, so that no pool takes it", keys::ROLE),
                        "give it the label, with the pool's name",
                    );
                }
                continue;
            };
            let hint = did_you_mean(role, pools.iter().map(|pool| pool.name));
            if !hint.is_empty() {
                report.tell(
                    item,
                    &format!("metadata.labels.{}", keys::ROLE),
                    format!("no pool takes role `{role}`{hint}"),
                    "",
                );
            }
        }
    },
};
