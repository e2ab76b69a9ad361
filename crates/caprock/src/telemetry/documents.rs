//! Holds documents, dashboard and alert rules to the metrics that there are.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::*;
use crate::documents::{read, root};

/// Metrics of every part, by name; each with its type and help.
fn exported() -> BTreeMap<String, (String, String)> {
    let mut telemetry = Telemetry::new();
    telemetry.controllers(&controllers::Telemetry::default(), &Default::default());
    telemetry.agent(&agent::Telemetry::default(), &Default::default());
    telemetry.upkeep("webhook", &Upkeep::default());
    let shown = telemetry.complete();
    let text = shown.metrics(Format::Prometheus);
    let mut found = BTreeMap::new();
    let mut help = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap().1;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            found.insert(name.to_owned(), (kind.to_owned(), help.to_owned()));
        }
    }
    found
}

/// Functions and keywords of PromQL that our expressions use.
const WORDS: [&str; 24] = [
    "and",
    "by",
    "changes",
    "count",
    "histogram_quantile",
    "increase",
    "label_values",
    "le",
    "max",
    "min",
    "min_over_time",
    "on",
    "or",
    "pool",
    "rate",
    "sum",
    "time",
    "topk",
    "unless",
    "up",
    "vector",
    "without",
    "group_left",
    "offset",
];

/// The names in an expression that stand outside of braces, brackets, quotes and lists of labels.
fn names(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    let mut grouping = false;
    while let Some(first) = rest.chars().next() {
        let skip_to = |end: char| rest.find(end).map_or(rest.len(), |at| at + 1);
        let length = match first {
            '{' => skip_to('}'),
            '[' => skip_to(']'),
            '(' if grouping => {
                grouping = false;
                skip_to(')')
            }
            '"' => 1 + rest[1..].find('"').map_or(rest.len() - 1, |at| at + 1),
            first if first.is_ascii_alphabetic() || first == '_' => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
                let word = &rest[..end.unwrap_or(rest.len())];
                grouping = matches!(word, "by" | "on" | "without" | "group_left");
                found.insert(word.to_owned());
                word.len()
            }
            // A duration or a number.
            first if first.is_ascii_digit() => rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '.')
                .unwrap_or(rest.len()),
            other => other.len_utf8(),
        };
        rest = &rest[length..];
    }
    found
}

fn check(expression: &str, exported: &BTreeMap<String, (String, String)>, place: &str) {
    for name in names(expression) {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|family| {
                exported
                    .get(*family)
                    .is_some_and(|(kind, _)| kind == "histogram")
            });
        assert!(
            WORDS.contains(&name.as_str()) || exported.contains_key(&name) || family.is_some(),
            "{place}: no part exports `{name}`, in `{expression}`"
        );
    }
}

/// Labels of metrics that have no sample before loops run, and there are pools, nodes and builds.
const LATER: [(&str, &[&str]); 20] = [
    ("caprock_builds", &["state"]),
    ("caprock_node_drain_start_timestamp_seconds", &["node"]),
    ("caprock_pool_condition", &["pool", "type", "reason"]),
    (
        "caprock_pool_condition_last_transition_timestamp_seconds",
        &["pool", "type"],
    ),
    ("caprock_pool_degraded_machines", &["pool"]),
    ("caprock_pool_machines", &["pool"]),
    ("caprock_pool_nodes", &["pool", "phase"]),
    ("caprock_pool_paused", &["pool"]),
    ("caprock_pool_ready_machines", &["pool"]),
    ("caprock_pool_unanswered_nodes", &["pool"]),
    ("caprock_pool_unavailable_machines", &["pool"]),
    ("caprock_pool_updated_machines", &["pool"]),
    ("caprock_pool_waiting_nodes", &["pool", "reason"]),
    (
        "caprock_certificate_expiry_timestamp_seconds",
        &["certificate"],
    ),
    (
        "caprock_trusted_certificate_expiry_timestamp_seconds",
        &["bundle"],
    ),
    ("caprock_build_failures_total", &["reason"]),
    ("caprock_reconcile_duration_seconds_bucket", &["loop", "le"]),
    ("caprock_reconcile_errors_total", &["loop", "kind"]),
    ("caprock_reconcile_queue_depth", &["loop"]),
    ("up", &["job"]),
];

/// Labels of every metric, by the names that samples have.
fn labels() -> BTreeMap<String, BTreeSet<String>> {
    let mut telemetry = Telemetry::new();
    telemetry.controllers(&controllers::Telemetry::default(), &Default::default());
    telemetry.agent(&agent::Telemetry::default(), &Default::default());
    telemetry.upkeep("webhook", &Upkeep::default());
    let text = telemetry.complete().metrics(Format::Prometheus);
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, _) = line.rsplit_once(' ').unwrap();
        let (name, inside) = sample.split_once('{').unwrap_or((sample, ""));
        let named = inside
            .split("=\"")
            .map(|part| part.rsplit([',', '"']).next().unwrap());
        let named = named.filter(|label| !label.is_empty() && *label != "}");
        let labels = found.entry(name.to_owned()).or_default();
        labels.extend(named.map(str::to_owned));
    }
    for (name, labels) in LATER {
        let labels = labels.iter().map(|label| (*label).to_owned());
        found.entry(name.to_owned()).or_default().extend(labels);
    }
    found
}

/// The labels that an expression selects or groups by.
fn labels_in(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for inside in expression.split('{').skip(1) {
        let inside = inside.split('}').next().unwrap();
        for matcher in inside.split("\",").flat_map(|part| part.split("\" ,")) {
            let label = matcher.split(['=', '!']).next().unwrap();
            found.insert(label.trim().to_owned());
        }
    }
    for keyword in [" by (", " on (", " without ("] {
        for list in expression.split(keyword).skip(1) {
            let list = list.split(')').next().unwrap();
            found.extend(list.split(',').map(|label| label.trim().to_owned()));
        }
    }
    found
}

/// Holds labels, also those of a legend, to what the metrics of the expression have.
fn check_labels(
    expression: &str,
    legend: &str,
    labels: &BTreeMap<String, BTreeSet<String>>,
    place: &str,
) {
    // Prometheus gives every series the first two.
    let mut known: BTreeSet<String> = ["instance", "job"].map(str::to_owned).into();
    for name in names(expression) {
        known.extend(labels.get(&name).into_iter().flatten().cloned());
    }
    let told = legend.split("{{").skip(1);
    let told = told.map(|rest| rest.split("}}").next().unwrap().trim().to_owned());
    for label in labels_in(expression).into_iter().chain(told) {
        assert!(
            known.contains(&label),
            "{place}: no metric has a label `{label}`, in `{expression}` or `{legend}`; they have {known:?}"
        );
    }
}

#[test]
fn names_are_found_in_expressions() {
    let found = names(
        "sum by (le) (rate(a_total{code=~\"b|c\"}[5m])) / on (x) d > 1e3 and time() - e < 7 * 86400",
    );
    let expected = [
        "a_total", "and", "by", "d", "e", "on", "rate", "sum", "time",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
}

#[test]
fn metrics_are_named_as_prometheus_asks() {
    for (name, (kind, help)) in exported() {
        assert_eq!(
            kind == "counter",
            name.ends_with("_total"),
            "{name}: {kind}"
        );
        assert!(help.len() > 8, "{name} says nothing of itself");
        for unit in ["_ms", "_millis", "_minutes", "_kb", "_mb"] {
            assert!(!name.contains(unit), "{name} is not in a base unit");
        }
    }
}

/// `UPDATE_METRICS=1` writes the table.
#[test]
fn the_document_lists_every_metric() {
    const BEGIN: &str = "<!-- metrics: written by `UPDATE_METRICS=1 cargo test -p caprock lists_every_metric` -->\n";
    const END: &str = "<!-- end of metrics -->\n";
    let mut table = String::from("| metric | type | what it says |\n|---|---|---|\n");
    for (name, (kind, help)) in exported() {
        let help = help.trim_end_matches('.').replace('|', "\\|");
        table.push_str(&format!("| `{name}` | {kind} | {help} |\n"));
    }
    let path = "docs/monitoring.md";
    let text = read(path);
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (listed, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_METRICS").is_some() {
        std::fs::write(
            root().join(path),
            format!("{before}{BEGIN}{table}{END}{after}"),
        )
        .unwrap();
        return;
    }
    assert_eq!(listed, table, "docs/monitoring.md is not up to date");
}

fn alerts() -> Value {
    serde_saphyr::from_str(&read("deploy/monitoring/alerts.yaml")).unwrap()
}

fn rules(groups: &Value) -> Vec<Value> {
    let groups = groups.as_array().unwrap();
    groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

#[test]
fn alerts_watch_metrics_that_there_are_and_lead_into_the_runbook() {
    let (exported, labels, runbook) = (exported(), labels(), read("docs/runbook.md"));
    let rules = rules(&alerts()["spec"]["groups"]);
    assert!(!rules.is_empty());
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        let expression = rule["expr"].as_str().unwrap();
        check(expression, &exported, name);
        let summary = rule["annotations"]["summary"].as_str().unwrap();
        let legend = summary.replace("$labels.", "");
        check_labels(expression, &legend, &labels, name);
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(
            ["info", "warning", "critical"].contains(&severity),
            "{name}"
        );
        let url = rule["annotations"]["runbook_url"].as_str().unwrap();
        let anchor = url.strip_prefix("docs/runbook.md#").unwrap();
        let heading = |line: &str| {
            let title = line.strip_prefix("### ")?.trim_matches('`').to_lowercase();
            (title == anchor).then_some(())
        };
        assert!(
            runbook.lines().any(|line| heading(line).is_some()),
            "docs/runbook.md has no section for {name} at `#{anchor}`"
        );
    }
}

/// `UPDATE_RULES=1` writes the file.
#[test]
fn plain_rules_are_those_of_the_operator() {
    const HEADER: &str = "# Written from ../alerts.yaml by `UPDATE_RULES=1 cargo test -p caprock plain_rules`: the same rules for a Prometheus \
                          without the operator.\n";
    let text = read("deploy/monitoring/alerts.yaml");
    let groups = &text[text.find("  groups:\n").unwrap()..];
    let lines = groups
        .lines()
        .map(|line| line.strip_prefix("  ").unwrap_or(line));
    let plain = HEADER.to_owned() + &lines.collect::<Vec<_>>().join("\n") + "\n";
    let path = "deploy/monitoring/files/alerts.rules";
    if std::env::var_os("UPDATE_RULES").is_some() {
        std::fs::write(root().join(path), plain).unwrap();
        return;
    }
    assert_eq!(read(path), plain, "{path} is not up to date");
}

#[test]
fn the_dashboard_shows_metrics_and_labels_that_there_are() {
    let (exported, labels) = (exported(), labels());
    let dashboard: Value =
        serde_json::from_str(&read("deploy/monitoring/files/dashboard.json")).unwrap();
    let mut seen = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            check(expression, &exported, title);
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            check_labels(expression, legend, &labels, title);
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} expressions");
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            check(
                variable["definition"].as_str().unwrap(),
                &exported,
                "variable",
            );
        }
    }
}

/// Prometheus' own tool reads the rules, and tries them on made-up series.
#[test]
fn privileged_promtool_tries_the_alerts() {
    if std::env::var_os("CAPROCK_TEST_PRIVILEGED").is_none_or(|value| value != "1") {
        eprintln!("skipped: needs promtool; set CAPROCK_TEST_PRIVILEGED=1");
        return;
    }
    let dir = root().join("deploy/monitoring/files");
    for arguments in [
        ["check", "rules", "alerts.rules"],
        ["test", "rules", "alerts-test.yaml"],
    ] {
        let ran = std::process::Command::new("promtool")
            .args(arguments)
            .current_dir(&dir)
            .output();
        let ran = match ran {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: `demo/deps.sh clients` installs promtool");
                return;
            }
            ran => ran.unwrap(),
        };
        let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "promtool {arguments:?}: {said}");
    }
}
