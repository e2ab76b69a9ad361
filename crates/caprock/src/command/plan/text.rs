//! Plans as people read them.

use model::update::{Reason, Update};

use super::pool::{NodePlan, PoolPlan};

/// Reasons that one line names; the rest are counted.
const NAMED: usize = 4;

/// All pools, each with its nodes; nodes with the same plan stand together.
pub(super) fn pools(plans: &[PoolPlan]) -> String {
    let blocks: Vec<String> = plans.iter().map(pool).collect();
    blocks.join("\n")
}

fn pool(plan: &PoolPlan) -> String {
    let paused = if plan.paused { " (paused)" } else { "" };
    let mut text = format!("pool {}{paused}: {}\n", plan.pool, plan.config);
    if let Some(problem) = &plan.problem {
        text.push_str(&format!(
            "  no new configuration: {}\n",
            problem.replace('\n', "\n    ")
        ));
    }
    match &plan.build {
        Some(build) if !build.reasons.is_empty() => {
            text.push_str(&format!("  new image: {}\n", reasons(&build.reasons)));
        }
        _ => {}
    }
    if let Some(what) = &plan.waits_for {
        text.push_str(&format!("  waits for {what}\n"));
    }
    for wave in &plan.waves {
        let then = match (&wave.soak, wave.pause) {
            (_, true) => ", then waits until its `pause` is taken away".to_owned(),
            (Some(soak), false) => format!(", then has to stay well for {soak}"),
            (None, false) => String::new(),
        };
        let nodes = wave.nodes.join(" ");
        text.push_str(&format!("  wave {}: {nodes}{then}\n", wave.wave));
    }
    if plan.batches.len() > 1 {
        let batches: Vec<String> = plan.batches.iter().map(|batch| batch.join(" ")).collect();
        text.push_str(&format!(
            "  order, {} at a time: {}\n",
            plan.max_unavailable,
            batches.join(", then ")
        ));
    }
    if plan.nodes.is_empty() {
        text.push_str("  no nodes\n");
    }
    let mut groups: Vec<(&NodePlan, Vec<&str>)> = Vec::new();
    for node in &plan.nodes {
        let same =
            |known: &NodePlan| known.update == node.update && known.waits_for == node.waits_for;
        match groups.iter_mut().find(|(known, _)| same(known)) {
            Some((_, names)) => names.push(&node.node),
            None => groups.push((node, vec![&node.node])),
        }
    }
    for (node, names) in groups {
        text.push_str(&nodes(node, &names.join(" ")));
    }
    text
}

fn nodes(node: &NodePlan, names: &str) -> String {
    let waits = node.waits_for.as_deref();
    let Some(update) = &node.update else {
        return format!("  {names}: {}\n", waits.unwrap_or_default());
    };
    let mut text = format!("  {names}: {update:#}\n");
    if let Some(why) = waits {
        text.push_str(&format!("    gets no update while it {why}\n"));
    }
    for obstacle in &node.obstacles {
        text.push_str(&format!("    cannot: {obstacle}\n"));
    }
    text.push_str(&details(update, "    "));
    text
}

/// What is done and why, and what changes and who says so.
pub(super) fn details(update: &Update, indent: &str) -> String {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut done = |what: String, why: &[Reason]| {
        if !why.is_empty() {
            rows.push((what, format!("because {}", reasons(why))));
        }
    };
    done(update.disruption.as_str().to_owned(), &update.reboot);
    done("drain".to_owned(), &update.drain);
    for action in &update.actions {
        let unit = action
            .unit()
            .map(|unit| format!(" {unit}"))
            .unwrap_or_default();
        let verb = match action.type_name() {
            "DaemonReload" => "daemon-reload".to_owned(),
            other => other.to_lowercase(),
        };
        done(verb + &unit, action.reasons());
    }
    let width = rows
        .iter()
        .map(|(what, _)| what.chars().count())
        .max()
        .unwrap_or_default();
    let mut text: String = rows
        .iter()
        .map(|(what, why)| format!("{indent}{what:<width$}  {why}\n"))
        .collect();
    for reason in &update.reasons {
        text.push_str(&format!("{indent}{} ({})\n", reason.change, reason.object));
    }
    text
}

/// `+file /etc/x (50-x), unit a.service (policy …)`
pub(super) fn reasons(reasons: &[Reason]) -> String {
    let one = |reason: &Reason| {
        let policy = reason
            .policy
            .as_ref()
            .map(|policy| format!(", policy {policy}"));
        format!("{reason} ({}{})", reason.object, policy.unwrap_or_default())
    };
    let mut parts: Vec<String> = reasons.iter().take(NAMED).map(one).collect();
    if reasons.len() > NAMED {
        parts.push(format!("{} more", reasons.len() - NAMED));
    }
    parts.join(", ")
}
