//! The policy in force as MachineConfiguration's status has it, and back.

use super::{Directive, Policy, Rule, add, place};
use crate::api::{
    ActionInForce, ActionTypeInForce as Type, ClusterPolicies, FilePolicyInForce,
    MachineConfiguration, ServiceName, SshKeyPolicyInForce, UnitPolicyInForce,
};
use crate::ignition;

impl Policy {
    /// What nodes follow: the policy in the status, or the one that will be there once the controller has seen the
    /// newest spec.
    pub fn followed(object: &MachineConfiguration) -> Self {
        let status = object.status.as_ref();
        let seen = status
            .filter(|status| status.observed_generation == object.metadata.generation)
            .and_then(|status| status.node_disruption_policy_status.as_ref());
        match (seen, &object.spec.node_disruption_policy) {
            (Some(seen), _) => Policy::in_force(&seen.cluster_policies),
            (None, Some(user)) => Policy::of(user),
            (None, None) => Policy::default(),
        }
    }

    /// Reads what [`Policy::cluster_policies`] wrote. It is whole: no default is added.
    pub fn in_force(policies: &ClusterPolicies) -> Self {
        let mut policy = Policy {
            files: Vec::new(),
            units: Vec::new(),
            sshkey: policies
                .sshkey
                .as_ref()
                .map(|keys| read(&keys.actions))
                .unwrap_or_default(),
        };
        for file in &policies.files {
            let rule = Rule {
                subject: ignition::normalised(&file.path),
                directives: read(&file.actions),
            };
            add(&mut policy.files, rule, |a, b| place(a) == place(b));
        }
        for unit in &policies.units {
            let rule = Rule {
                subject: unit.name.clone(),
                directives: read(&unit.actions),
            };
            add(&mut policy.units, rule, |a, b| a == b);
        }
        policy
    }

    /// The policy as `status.nodeDisruptionPolicyStatus.clusterPolicies` has it.
    pub fn cluster_policies(&self) -> ClusterPolicies {
        ClusterPolicies {
            files: self
                .files
                .iter()
                .map(|rule| FilePolicyInForce {
                    path: rule.subject.clone(),
                    actions: write(&rule.directives),
                })
                .collect(),
            units: self
                .units
                .iter()
                .map(|rule| UnitPolicyInForce {
                    name: rule.subject.clone(),
                    actions: write(&rule.directives),
                })
                .collect(),
            sshkey: Some(SshKeyPolicyInForce {
                actions: write(&self.sshkey),
            }),
        }
    }
}

fn read(actions: &[ActionInForce]) -> Vec<Directive> {
    let service = |name: &Option<ServiceName>| name.as_ref().map(|name| name.service_name.clone());
    actions
        .iter()
        .filter_map(|action| {
            Some(match action.type_ {
                Type::Reboot => Directive::Reboot,
                Type::Drain => Directive::Drain,
                Type::Reload => Directive::Reload(service(&action.reload)?),
                Type::Restart => Directive::Restart(service(&action.restart)?),
                Type::DaemonReload => Directive::DaemonReload,
                Type::None => Directive::None,
                Type::Special => Directive::Registries,
            })
        })
        .collect()
}

fn write(directives: &[Directive]) -> Vec<ActionInForce> {
    let service = |name: &String| {
        Some(ServiceName {
            service_name: name.clone(),
        })
    };
    let action = |type_| ActionInForce {
        type_,
        ..ActionInForce::default()
    };
    directives
        .iter()
        .map(|directive| match directive {
            Directive::None => action(Type::None),
            Directive::DaemonReload => action(Type::DaemonReload),
            Directive::Reload(name) => ActionInForce {
                reload: service(name),
                ..action(Type::Reload)
            },
            Directive::Restart(name) => ActionInForce {
                restart: service(name),
                ..action(Type::Restart)
            },
            Directive::Drain => action(Type::Drain),
            Directive::Reboot => action(Type::Reboot),
            Directive::Registries => action(Type::Special),
        })
        .collect()
}
