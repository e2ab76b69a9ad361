//! The node disruption policy: what a change of a file, a unit or SSH keys asks of a node.
//!
//! A user's policy always wins: it replaces the defaults for its path and for everything below it. Paths are compared by
//! their components, and the longest that covers a file counts. What no policy covers is live: files are read by whoever
//! opens them, units start, restart and stop as their config says.

mod defaults;
mod in_force;
mod registries;

use crate::api::{NodeDisruptionPolicy, PolicyAction, PolicyActionType};
use crate::ignition;
use crate::problem::Problem;

pub(super) use registries::unsafe_changes;

/// What a change asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Directive {
    /// Nothing.
    None,
    DaemonReload,
    Reload(String),
    Restart(String),
    /// The node drains while the change is made.
    Drain,
    Reboot,
    /// `crio.service` is reloaded; the node drains first if images may come from elsewhere than before.
    Registries,
}

/// What changes of one path or unit ask for, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// The path, without `.`, `..`, doubled or trailing slashes, or the name of the unit.
    pub(super) subject: String,
    pub(super) directives: Vec<Directive>,
}

/// The node disruption policy in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// By path, no two of which are one place.
    files: Vec<Rule>,
    /// By name.
    units: Vec<Rule>,
    sshkey: Vec<Directive>,
}

/// The defaults.
impl Default for Policy {
    fn default() -> Self {
        let (mut files, mut units) = (defaults::files(), defaults::units());
        sort(&mut files);
        sort(&mut units);
        Policy {
            files,
            units,
            sshkey: vec![Directive::None],
        }
    }
}

impl Policy {
    /// The defaults with a user's policy over them.
    pub fn of(user: &NodeDisruptionPolicy) -> Self {
        let mut files: Vec<Rule> = Vec::new();
        for file in &user.files {
            let rule = Rule::new(&ignition::normalised(&file.path), &file.actions);
            add(&mut files, rule, |a, b| place(a) == place(b));
        }
        let mut units: Vec<Rule> = Vec::new();
        for unit in &user.units {
            add(&mut units, Rule::new(&unit.name, &unit.actions), |a, b| {
                a == b
            });
        }
        let defaults = Policy::default();
        let own = files.len();
        files.extend(defaults.files.into_iter().filter({
            let user: Vec<String> = files[..own]
                .iter()
                .map(|rule| place(&rule.subject))
                .collect();
            move |rule| !user.iter().any(|path| covers(path, &place(&rule.subject)))
        }));
        let own = units.len();
        units.extend(defaults.units.into_iter().filter({
            let user: Vec<String> = units[..own]
                .iter()
                .map(|rule| rule.subject.clone())
                .collect();
            move |rule| {
                !user
                    .iter()
                    .any(|name| is_or_is_instance_of(&rule.subject, name))
            }
        }));
        sort(&mut files);
        sort(&mut units);
        let sshkey = user
            .sshkey
            .as_ref()
            .map(|policy| directives(&policy.actions));
        Policy {
            files,
            units,
            sshkey: sshkey
                .filter(|asked| !asked.is_empty())
                .unwrap_or(defaults.sshkey),
        }
    }

    /// The rule for a path: the longest that covers it. A rule for what is a file does not cover what lies below.
    pub(super) fn of_path(&self, path: &str, is_file: impl Fn(&str) -> bool) -> Option<&Rule> {
        let path = place(path);
        let fits = |rule: &&Rule| {
            let own = place(&rule.subject);
            own == path || covers(&own, &path) && !is_file(&rule.subject)
        };
        self.files
            .iter()
            .filter(fits)
            .max_by_key(|rule| place(&rule.subject).len())
    }

    /// The rule for a unit: its own, or that of its template.
    pub(super) fn of_unit(&self, name: &str) -> Option<&Rule> {
        let own = self.units.iter().find(|rule| rule.subject == name);
        own.or_else(|| {
            self.units
                .iter()
                .find(|rule| is_or_is_instance_of(name, &rule.subject))
        })
    }

    /// What a change of the keys or the password of `core` asks for.
    pub(super) fn of_keys(&self) -> &[Directive] {
        &self.sshkey
    }

    /// Whether a unit that its config enables may be found stopped: its policy is `None`, so nothing starts it before
    /// the next boot.
    pub fn leaves_alone(&self, unit: &str) -> bool {
        self.of_unit(unit)
            .is_some_and(|rule| rule.directives == [Directive::None])
    }
}

/// Everything that is wrong with a policy that no API server has checked.
pub fn problems(policy: &NodeDisruptionPolicy) -> Vec<Problem> {
    let at = "spec.nodeDisruptionPolicy";
    let mut problems = Vec::new();
    for (index, file) in policy.files.iter().enumerate() {
        let field = format!("{at}.files[{index}]");
        if !file.path.starts_with('/') {
            let reason = format!("expected an absolute path, found `{}`", file.path);
            problems.push(Problem::new(format!("{field}.path"), reason));
        }
        action_problems(&field, &file.actions, &mut problems);
    }
    for (index, unit) in policy.units.iter().enumerate() {
        let field = format!("{at}.units[{index}]");
        if let Some(reason) = ignition::unit_name_problem(&unit.name) {
            problems.push(Problem::new(format!("{field}.name"), reason));
        }
        action_problems(&field, &unit.actions, &mut problems);
    }
    if let Some(keys) = &policy.sshkey {
        action_problems(&format!("{at}.sshkey"), &keys.actions, &mut problems);
    }
    problems
}

fn action_problems(field: &str, actions: &[PolicyAction], problems: &mut Vec<Problem>) {
    let field = format!("{field}.actions");
    if actions.is_empty() {
        let reason = "expected at least one action; `None` is the one for no disruption";
        problems.push(Problem::new(field.clone(), reason));
    }
    for (alone, word) in [
        (PolicyActionType::Reboot, "Reboot"),
        (PolicyActionType::None, "None"),
    ] {
        if actions.len() > 1 && actions.iter().any(|action| action.type_ == alone) {
            let reason = format!("`{word}` stands alone: take the other actions away, or `{word}`");
            problems.push(Problem::new(field.clone(), reason));
        }
    }
    for (index, action) in actions.iter().enumerate() {
        let kinds = [
            ("reload", PolicyActionType::Reload, &action.reload),
            ("restart", PolicyActionType::Restart, &action.restart),
        ];
        for (name, kind, service) in kinds {
            let field = format!("{field}[{index}].{name}");
            match (action.type_ == kind, service) {
                (true, None) => problems.push(Problem::new(field, "required, found nothing")),
                (false, Some(_)) => {
                    let reason = format!(
                        "belongs to type `{kind:?}`, found type `{:?}`",
                        action.type_
                    );
                    problems.push(Problem::new(field, reason));
                }
                (true, Some(service)) => {
                    if let Some(reason) = ignition::unit_name_problem(&service.service_name) {
                        problems.push(Problem::new(format!("{field}.serviceName"), reason));
                    }
                }
                (false, None) => {}
            }
        }
    }
}

impl Rule {
    fn new(subject: &str, actions: &[PolicyAction]) -> Self {
        Rule {
            subject: subject.to_owned(),
            directives: directives(actions),
        }
    }
}

fn sort(rules: &mut [Rule]) {
    rules.sort_by(|a, b| a.subject.cmp(&b.subject));
}

/// Adds a rule; one for a subject that is there already adds to what that asks for. One that asks for nothing, not even
/// `None`, says nothing.
fn add(rules: &mut Vec<Rule>, rule: Rule, same: impl Fn(&str, &str) -> bool) {
    if rule.directives.is_empty() {
        return;
    }
    match rules
        .iter_mut()
        .find(|known| same(&known.subject, &rule.subject))
    {
        Some(known) => {
            let new = rule
                .directives
                .into_iter()
                .filter(|asked| !known.directives.contains(asked));
            known.directives = known
                .directives
                .iter()
                .cloned()
                .chain(new.collect::<Vec<_>>())
                .collect();
        }
        None => rules.push(rule),
    }
}

fn directives(actions: &[PolicyAction]) -> Vec<Directive> {
    let service = |name: &Option<crate::api::ServiceName>| {
        name.as_ref().map(|name| name.service_name.clone())
    };
    actions
        .iter()
        .filter_map(|action| {
            Some(match action.type_ {
                PolicyActionType::Reboot => Directive::Reboot,
                PolicyActionType::Drain => Directive::Drain,
                PolicyActionType::Reload => Directive::Reload(service(&action.reload)?),
                PolicyActionType::Restart => Directive::Restart(service(&action.restart)?),
                PolicyActionType::DaemonReload => Directive::DaemonReload,
                PolicyActionType::None => Directive::None,
            })
        })
        .collect()
}

/// A path with the links of image-mode hosts followed, so that two names of one place are equal.
fn place(path: &str) -> String {
    if path == "/" {
        return path.to_owned();
    }
    // A link's own path counts as what it leads to.
    let inside = format!("{path}/.");
    ignition::real(&inside).trim_end_matches("/.").to_owned()
}

/// Whether `path` is `directory` or lies below it. Both are normalised.
fn covers(directory: &str, path: &str) -> bool {
    let rest = path.strip_prefix(directory.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether `unit` is `name`, or an instance of the template `name`.
fn is_or_is_instance_of(unit: &str, name: &str) -> bool {
    let template = || {
        let (prefix, rest) = unit.split_once('@')?;
        let (_, suffix) = rest.rsplit_once('.')?;
        Some(format!("{prefix}@.{suffix}"))
    };
    unit == name || template().as_deref() == Some(name)
}

#[cfg(test)]
mod tests;
