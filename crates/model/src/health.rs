//! When a node counts as well after an update: what its pool's RolloutPolicy asks for, read once and trusted afterwards.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube_core::ResourceExt;

use crate::api::{CommandProbe, HttpProbe, NodeHealth, Probe, RolloutPolicy};
use crate::pool::share;
use crate::problem::Problem;

/// How long a node has when nothing is said: above the 90 seconds that systemd gives a unit to start.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(120);
/// How long one run of a command, or one answer of a server, may take when nothing is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// No probe and no node is waited for longer.
const MAX_DURATION: Duration = Duration::from_secs(3600);

/// The policy of a pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Applied<'a> {
    /// The one that applies.
    pub policy: &'a RolloutPolicy,
    /// Another one that names the pool too, and so has no say.
    pub ignored: Option<&'a RolloutPolicy>,
}

/// The policy that applies to a pool: of several, the one whose name comes first, whichever was made first.
pub fn policy_of<'a>(
    pool: &str,
    policies: impl IntoIterator<Item = &'a RolloutPolicy>,
) -> Option<Applied<'a>> {
    let names_pool =
        |policy: &&RolloutPolicy| policy.spec.pools.iter().any(|named| named.name == pool);
    let mut naming: Vec<&RolloutPolicy> = policies.into_iter().filter(names_pool).collect();
    naming.sort_by_key(|policy| policy.name_any());
    Some(Applied {
        policy: naming.first()?,
        ignored: naming.get(1).copied(),
    })
}

/// How many of a pool's `nodes` may fail an update, and what is wrong with its policy. A budget that cannot be read allows
/// none: a pool that stops too early can be told to go on, nodes that are lost cannot.
pub fn budget(applied: Option<Applied<'_>>, nodes: usize) -> (Option<usize>, Vec<String>) {
    let Some(Applied { policy, ignored }) = applied else {
        return (None, Vec::new());
    };
    let name = policy.name_any();
    let mut problems: Vec<String> = ignored
        .map(|other| {
            format!(
                "RolloutPolicies `{name}` and `{}` both name this pool, and `{name}` applies; leave the pool out of one of them",
                other.name_any()
            )
        })
        .into_iter()
        .collect();
    let mut fault = |problem: Problem| problems.push(format!("RolloutPolicy `{name}`: {problem}"));
    let budget = policy.spec.failure_budget.as_ref().map(|value| {
        share(value, nodes).unwrap_or_else(|found| {
            let reason = format!(
                "expected a count or a percentage up to `100%`, found `{found}`; until then no node may fail"
            );
            fault(Problem::new("spec.failureBudget", reason));
            0
        })
    });
    Health::of(&policy.spec.health)
        .err()
        .into_iter()
        .flatten()
        .for_each(fault);
    (budget, problems)
}

/// What a node must show, and how long it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// From when its agent begins to look.
    pub deadline: Duration,
    /// What has to be true besides: name and check.
    pub probes: Vec<(String, Check)>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            deadline: DEFAULT_DEADLINE,
            probes: Vec::new(),
        }
    }
}

/// One thing that has to be true of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A unit is active.
    Unit {
        /// Its name.
        name: String,
    },
    /// A file is there.
    File {
        /// Its path.
        path: String,
        /// Text that has to be in it.
        contains: Option<String>,
    },
    /// Something is mounted.
    Mount {
        /// The mount point.
        path: String,
    },
    /// A command ends with an exit status.
    Command {
        /// Program and arguments; never empty.
        argv: Vec<String>,
        /// The status that means that all is well.
        exit_status: i32,
        /// How long one run may take.
        timeout: Duration,
    },
    /// A server on this node answers.
    Http {
        /// What to get; its host is this node.
        url: String,
        /// The status that means that all is well.
        status: u16,
        /// How long one answer may take.
        timeout: Duration,
    },
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Check::Unit { name } => write!(f, "unit `{name}` is active"),
            Check::File { path, contains } => match contains {
                Some(_) => write!(f, "`{path}` is there with its text"),
                None => write!(f, "`{path}` is there"),
            },
            Check::Mount { path } => write!(f, "something is mounted at `{path}`"),
            Check::Command {
                argv, exit_status, ..
            } => write!(f, "`{}` ends with {exit_status}", argv.join(" ")),
            Check::Http { url, status, .. } => write!(f, "`{url}` answers {status}"),
        }
    }
}

impl Health {
    /// Reads what a policy says, as strictly as its schema: an API server that knows no rules may hold anything.
    ///
    /// # Errors
    /// Everything that is wrong with it, by field.
    pub fn of(spec: &NodeHealth) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut fault = |problem: Problem| problems.push(problem);
        let deadline = bounded(spec.deadline, DEFAULT_DEADLINE).unwrap_or_else(|reason| {
            fault(Problem::new("spec.health.deadline", reason));
            DEFAULT_DEADLINE
        });
        let mut probes: Vec<(String, Check)> = Vec::new();
        for (at, probe) in spec.probes.iter().enumerate() {
            let field = format!("spec.health.probes[{at}]");
            if probes.iter().any(|(name, _)| *name == probe.name) {
                fault(Problem::new(
                    format!("{field}.name"),
                    format!(
                        "`{}` is the name of an earlier probe; give it another",
                        probe.name
                    ),
                ));
            }
            match check(probe, &field) {
                Ok(check) => probes.push((probe.name.clone(), check)),
                Err(problem) => fault(problem),
            }
        }
        if problems.is_empty() {
            Ok(Health { deadline, probes })
        } else {
            Err(problems)
        }
    }
}

fn check(probe: &Probe, field: &str) -> Result<Check, Problem> {
    let Probe {
        name: _,
        unit,
        file,
        mount,
        command,
        http,
    } = probe;
    match (unit, file, mount, command, http) {
        (Some(unit), None, None, None, None) => Ok(Check::Unit {
            name: unit.name.clone(),
        }),
        (None, Some(file), None, None, None) => Ok(Check::File {
            path: absolute(&file.path, &format!("{field}.file.path"))?,
            contains: file.contains.clone(),
        }),
        (None, None, Some(mount), None, None) => Ok(Check::Mount {
            path: absolute(&mount.path, &format!("{field}.mount.path"))?,
        }),
        (None, None, None, Some(command), None) => {
            command_check(command, &format!("{field}.command"))
        }
        (None, None, None, None, Some(http)) => http_check(http, &format!("{field}.http")),
        _ => Err(Problem::new(
            field,
            "expected exactly one of `unit`, `file`, `mount`, `command` and `http`",
        )),
    }
}

fn command_check(probe: &CommandProbe, field: &str) -> Result<Check, Problem> {
    if probe.argv.first().is_none_or(String::is_empty) {
        return Err(Problem::new(
            format!("{field}.argv"),
            "expected a program and its arguments, found nothing",
        ));
    }
    Ok(Check::Command {
        argv: probe.argv.clone(),
        exit_status: probe.exit_status,
        timeout: bounded(probe.timeout, DEFAULT_TIMEOUT)
            .map_err(|reason| Problem::new(format!("{field}.timeout"), reason))?,
    })
}

fn http_check(probe: &HttpProbe, field: &str) -> Result<Check, Problem> {
    if !is_of_this_node(&probe.url) {
        return Err(Problem::new(
            format!("{field}.url"),
            format!(
                "expected `http://` and `localhost` or a loopback address, such as `http://localhost:10248/healthz`, found `{}`",
                probe.url
            ),
        ));
    }
    Ok(Check::Http {
        url: probe.url.clone(),
        status: probe
            .status
            .map_or(Ok(200), u16::try_from)
            .map_err(|_| Problem::new(format!("{field}.status"), "expected an HTTP status"))?,
        timeout: bounded(probe.timeout, DEFAULT_TIMEOUT)
            .map_err(|reason| Problem::new(format!("{field}.timeout"), reason))?,
    })
}

/// Whether a URL names this host, so that what answers says something of this node.
fn is_of_this_node(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => (
                host,
                port.strip_prefix(':').or(port.is_empty().then_some("80")),
            ),
            None => return false,
        },
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("80")),
        },
    };
    let is_port = port.is_some_and(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
    });
    let is_loopback = host == "localhost"
        || host
            .parse::<Ipv4Addr>()
            .is_ok_and(|host| host.is_loopback())
        || host
            .parse::<Ipv6Addr>()
            .is_ok_and(|host| host.is_loopback());
    is_port && is_loopback
}

fn absolute(path: &str, field: &str) -> Result<String, Problem> {
    let inside = path.starts_with('/') && !path.split('/').any(|part| part == "..");
    inside.then(|| path.to_owned()).ok_or_else(|| {
        Problem::new(
            field,
            format!("expected an absolute path without `..`, found `{path}`"),
        )
    })
}

fn bounded(given: Option<kube_core::Duration>, otherwise: Duration) -> Result<Duration, String> {
    let Some(given) = given else {
        return Ok(otherwise);
    };
    let wanted = Duration::from(given);
    if given.is_negative() || wanted < Duration::from_secs(1) || wanted > MAX_DURATION {
        return Err(format!("expected between `1s` and `1h`, found `{given}`"));
    }
    Ok(wanted)
}

/// Why the Node is not Ready since this boot, or nothing: because it is, or because nobody says whether it is.
///
/// A Node keeps its last word while the machine reboots; `boot_id` is the running kernel's, and who keeps the Node Ready
/// writes it there too. After a soft reboot the kernel is the same: then only what was said since `since` counts.
pub fn unready(node: &Node, boot_id: &str, since: Option<Timestamp>) -> Option<String> {
    let status = node.status.as_ref()?;
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready")?;
    let reported = status.node_info.as_ref().map(|info| info.boot_id.as_str());
    if reported.is_some_and(|reported| !reported.is_empty() && reported != boot_id) {
        return Some("the Node has not been reported Ready since this boot".to_owned());
    }
    let said = ready.last_heartbeat_time.as_ref().map(|time| time.0);
    // Nodes count in seconds.
    let before = |since: Timestamp| said.is_some_and(|said| said.as_second() < since.as_second());
    if since.is_some_and(before) {
        return Some("the Node has not been reported Ready since this soft reboot".to_owned());
    }
    if ready.status == "True" {
        return None;
    }
    let message = ready.message.as_deref().unwrap_or_default();
    Some(format!("the Node is not Ready: {message}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn health(probes: Value, deadline: Value) -> Result<Health, String> {
        let spec = json!({"probes": probes, "deadline": deadline});
        let problems = |problems: Vec<Problem>| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            lines.join("\n")
        };
        Health::of(&serde_json::from_value(spec).unwrap()).map_err(problems)
    }

    #[test]
    fn every_kind_of_probe_is_read() {
        let probes = json!([
            {"name": "a", "unit": {"name": "autofs.service"}},
            {"name": "b", "file": {"path": "/etc/auto.misc", "contains": "home"}},
            {"name": "c", "mount": {"path": "/var/mnt/home"}},
            {"name": "d", "command": {"argv": ["ls", "/var/mnt/home"], "timeout": "3s"}},
            {"name": "e", "http": {"url": "http://[::1]:10248/healthz"}},
        ]);
        let health = health(probes, json!("5m")).unwrap();
        let shown: Vec<String> = health
            .probes
            .iter()
            .map(|(_, check)| check.to_string())
            .collect();
        assert_eq!(health.deadline, Duration::from_secs(300));
        assert_eq!(
            shown,
            [
                "unit `autofs.service` is active",
                "`/etc/auto.misc` is there with its text",
                "something is mounted at `/var/mnt/home`",
                "`ls /var/mnt/home` ends with 0",
                "`http://[::1]:10248/healthz` answers 200",
            ]
        );
    }

    #[test]
    fn what_cannot_be_probed_is_refused_by_field() {
        let check = |probe: Value, expected: &str| {
            let error = health(json!([probe]), Value::Null).unwrap_err();
            assert_eq!(error, expected);
        };
        check(
            json!({"name": "a"}),
            "`spec.health.probes[0]`: expected exactly one of `unit`, `file`, `mount`, `command` and `http`",
        );
        check(
            json!({"name": "a", "command": {"argv": []}}),
            "`spec.health.probes[0].command.argv`: expected a program and its arguments, found nothing",
        );
        check(
            json!({"name": "a", "file": {"path": "/etc/../x"}}),
            "`spec.health.probes[0].file.path`: expected an absolute path without `..`, found `/etc/../x`",
        );
        check(
            json!({"name": "a", "command": {"argv": ["true"], "timeout": "2h"}}),
            "`spec.health.probes[0].command.timeout`: expected between `1s` and `1h`, found `7200s`",
        );
        for url in [
            "https://localhost/",
            "http://example.com/",
            "http://localhost.example.com/",
            "http://localhost@example.com/",
            "http://127.0.0.1:99999/",
            "http://10.0.0.1/",
            "http://[::2]/",
            "http://[::1",
            "http:///x",
        ] {
            let error =
                health(json!([{"name": "a", "http": {"url": url}}]), Value::Null).unwrap_err();
            assert!(
                error.starts_with("`spec.health.probes[0].http.url`"),
                "{error}"
            );
        }
        let error = health(json!([]), json!("-5m")).unwrap_err();
        assert!(error.starts_with("`spec.health.deadline`"), "{error}");
        let twice = json!({"name": "a", "mount": {"path": "/x"}});
        let error = health(json!([twice, twice]), Value::Null).unwrap_err();
        assert!(error.starts_with("`spec.health.probes[1].name`"), "{error}");
    }

    #[test]
    fn the_first_name_of_several_policies_applies() {
        let policy = |name: &str, pools: &[&str]| {
            let pools: Vec<Value> = pools.iter().map(|name| json!({"name": name})).collect();
            RolloutPolicy::new(
                name,
                serde_json::from_value(json!({"pools": pools})).unwrap(),
            )
        };
        let all = [
            policy("c", &["x"]),
            policy("b", &["x", "y"]),
            policy("a", &["z"]),
        ];
        let names = |pool| {
            policy_of(pool, &all).map(|applied| {
                (
                    applied.policy.name_any(),
                    applied.ignored.map(ResourceExt::name_any),
                )
            })
        };
        assert_eq!(names("x"), Some(("b".to_owned(), Some("c".to_owned()))));
        assert_eq!(names("y"), Some(("b".to_owned(), None)));
        assert_eq!(names("other"), None);
    }

    #[test]
    fn a_budget_that_cannot_be_read_allows_nobody_to_fail() {
        let check = |spec: Value, expected: (Option<usize>, &[&str])| {
            let mut spec = spec;
            spec["pools"] = json!([{"name": "x"}]);
            let policy = [RolloutPolicy::new(
                "p",
                serde_json::from_value(spec).unwrap(),
            )];
            let (found, problems) = budget(policy_of("x", &policy), 10);
            assert_eq!(
                (found, problems),
                (
                    expected.0,
                    expected.1.iter().map(|s| s.to_string()).collect()
                )
            );
        };
        check(json!({}), (None, &[]));
        check(json!({"failureBudget": 0}), (Some(0), &[]));
        check(json!({"failureBudget": "25%"}), (Some(2), &[]));
        check(
            json!({"failureBudget": "few"}),
            (
                Some(0),
                &[
                    "RolloutPolicy `p`: `spec.failureBudget`: expected a count or a percentage up to `100%`, found `few`; until then no node may fail",
                ],
            ),
        );
        check(
            json!({"health": {"probes": [{"name": "a"}]}}),
            (
                None,
                &[
                    "RolloutPolicy `p`: `spec.health.probes[0]`: expected exactly one of `unit`, `file`, `mount`, `command` and `http`",
                ],
            ),
        );
    }

    #[test]
    fn ready_counts_from_this_boot() {
        let check = |status: Value, expected: Option<&str>| {
            let node = serde_json::from_value(json!({"status": status})).unwrap();
            assert_eq!(unready(&node, "now", None).as_deref(), expected);
        };
        let status = |ready: &str, boot: &str| {
            json!({
                "conditions": [{"type": "Ready", "status": ready, "message": "no network"}],
                "nodeInfo": {"bootID": boot, "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "",
                    "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
                    "systemUUID": ""},
            })
        };
        check(json!({}), None);
        check(json!({"conditions": []}), None);
        let soft = |said: i64| {
            let mut status = status("True", "now");
            status["conditions"][0]["lastHeartbeatTime"] =
                json!(Timestamp::constant(said, 0).to_string());
            let node = serde_json::from_value(json!({"status": status})).unwrap();
            unready(&node, "now", Some(Timestamp::constant(100, 7)))
        };
        assert!(soft(99).unwrap().contains("since this soft reboot"));
        assert_eq!(soft(100), None);
        check(status("True", "now"), None);
        check(status("True", ""), None);
        check(
            status("True", "before"),
            Some("the Node has not been reported Ready since this boot"),
        );
        check(
            status("False", "now"),
            Some("the Node is not Ready: no network"),
        );
    }
}
