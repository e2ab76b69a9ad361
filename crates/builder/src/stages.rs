//! Which stages a build needs, and what each stands on. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::containerfile::{
    Containerfile, Kind, MountKind, Position, Problem, Stage, Word, expand,
};

/// What a stage, a `COPY` or a mount takes files from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// The main build context.
    BuildContext,
    /// Nothing at all.
    Scratch,
    /// An earlier stage, by index.
    Stage(usize),
    /// A named context of the request.
    Context(String),
    /// An image in a registry.
    Image(String),
}

/// The stages to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In the order in which they can be built; the target is last.
    pub stages: Vec<Planned>,
}

/// One stage that is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Its index in the Containerfile.
    pub index: usize,
    pub base: Origin,
    /// `--platform`, as `os/architecture[/variant]`.
    pub platform: Option<String>,
    /// The stages that must be built before it.
    pub needs: BTreeSet<usize>,
    /// Its layers go into the image; of others only files are copied.
    pub exported: bool,
    /// It becomes the image.
    pub target: bool,
}

/// What the request brings along.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// Values of the `ARG`s before the first `FROM`, and of the platform.
    pub globals: &'a BTreeMap<String, String>,
    /// The named contexts; one hides a stage or an image of the same name.
    pub contexts: &'a BTreeSet<String>,
    /// The stage to build, by name or index; the last one when absent.
    pub target: Option<&'a str>,
}

/// Decides which stages to build, in which order.
pub(crate) fn plan(file: &Containerfile, inputs: &Inputs<'_>) -> Result<Plan, Vec<Problem>> {
    let target = target(file, inputs.target).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let mut needed: BTreeMap<usize, Planned> = BTreeMap::new();
    let mut todo = vec![target];
    while let Some(index) = todo.pop() {
        if needed.contains_key(&index) {
            continue;
        }
        let stage = &file.stages[index];
        let base = match expand_global(&stage.image, file, inputs) {
            Ok(image) => resolve_base(file, inputs, index, &image, &mut problems),
            Err(problem) => {
                problems.push(problem);
                Origin::Scratch
            }
        };
        let platform = match stage
            .platform
            .as_ref()
            .map(|word| expand_global(word, file, inputs))
            .transpose()
        {
            Ok(platform) => platform,
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let mut uses = vec![base.clone()];
        for word in sources(stage) {
            match origin(file, inputs, index, word) {
                Ok(origin) => uses.push(origin),
                Err(problem) => problems.push(problem),
            }
        }
        let stage = |origin: Origin| match origin {
            Origin::Stage(earlier) => Some(earlier),
            _ => None,
        };
        let needs: BTreeSet<usize> = uses.into_iter().filter_map(stage).collect();
        todo.extend(&needs);
        needed.insert(
            index,
            Planned {
                index,
                base,
                platform,
                needs,
                exported: false,
                target: index == target,
            },
        );
    }
    let mut top = Some(target);
    while let Some(stage) = top.and_then(|index| needed.get_mut(&index)) {
        stage.exported = true;
        top = match stage.base {
            Origin::Stage(below) => Some(below),
            _ => None,
        };
    }
    // Stages refer only to earlier ones, so the order of the file is an order of building.
    let mut stages: Vec<Planned> = needed.into_values().collect();
    stages.sort_by_key(|planned| planned.index);
    if problems.is_empty() {
        return Ok(Plan { stages });
    }
    problems.sort_by_key(|problem| problem.at);
    Err(problems)
}

/// What the `--from` of a `COPY` or mount in stage `index` names.
pub(crate) fn origin(
    file: &Containerfile,
    inputs: &Inputs<'_>,
    index: usize,
    word: &Word,
) -> Result<Origin, Problem> {
    let name = expand_global(word, file, inputs)?;
    if name.is_empty() {
        return Err(Problem::new(
            word.at,
            "`--from`: expected a stage, an image or a named context, found nothing",
        ));
    }
    if inputs.contexts.contains(&name) {
        return Ok(Origin::Context(name));
    }
    if let Some(stage) = stage_named(file, index, &name) {
        return Ok(Origin::Stage(stage));
    }
    if let Ok(number) = name.parse::<usize>() {
        if number < index {
            return Ok(Origin::Stage(number));
        }
        let message = format!("`--from`: there is no stage {number} before this one");
        return Err(Problem::new(word.at, message));
    }
    match name.as_str() {
        "scratch" => Ok(Origin::Scratch),
        _ => Ok(Origin::Image(name)),
    }
}

/// What a stage takes files from besides its base.
pub(crate) fn sources(stage: &Stage) -> impl Iterator<Item = &Word> {
    stage
        .instructions
        .iter()
        .flat_map(|instruction| -> Vec<&Word> {
            match &instruction.kind {
                Kind::Copy(copy) => copy.from.iter().collect(),
                Kind::Run(run) => run
                    .mounts
                    .iter()
                    .filter_map(|mount| match &mount.kind {
                        MountKind::Bind { from, .. } | MountKind::Cache { from, .. } => {
                            from.as_ref()
                        }
                        MountKind::Tmpfs { .. }
                        | MountKind::Secret { .. }
                        | MountKind::Ssh { .. } => None,
                    })
                    .collect(),
                _ => Vec::new(),
            }
        })
}

fn target(file: &Containerfile, target: Option<&str>) -> Result<usize, Problem> {
    let last = file.stages.len().saturating_sub(1);
    let Some(target) = target else {
        return Ok(last);
    };
    let by_name = stage_named(file, file.stages.len(), target);
    let by_number = target
        .parse()
        .ok()
        .filter(|number| *number < file.stages.len());
    by_name.or(by_number).ok_or_else(|| {
        let names: Vec<&str> = file
            .stages
            .iter()
            .filter_map(|stage| stage.name.as_deref())
            .collect();
        let problem = Problem::new(
            file.stages[last].at,
            format!("there is no stage `{target}` to build"),
        );
        match names.is_empty() {
            true => problem.hint("no stage has a name"),
            false => problem.hint(format!("stages: {}", names.join(", "))),
        }
    })
}

/// The last stage before `index` of that name.
fn stage_named(file: &Containerfile, index: usize, name: &str) -> Option<usize> {
    let name = name.to_lowercase();
    file.stages[..index]
        .iter()
        .rposition(|stage| stage.name.as_deref() == Some(&name))
}

fn resolve_base(
    file: &Containerfile,
    inputs: &Inputs<'_>,
    index: usize,
    image: &str,
    problems: &mut Vec<Problem>,
) -> Origin {
    let at: Position = file.stages[index].image.at;
    if image.is_empty() {
        let message = format!(
            "`FROM`: `{}` expands to nothing",
            file.stages[index].image.raw
        );
        problems.push(
            Problem::new(at, message).hint("give the `ARG` a default or pass a build argument"),
        );
        return Origin::Scratch;
    }
    if inputs.contexts.contains(image) {
        return Origin::Context(image.to_string());
    }
    match stage_named(file, index, image) {
        Some(stage) => Origin::Stage(stage),
        None if image == "scratch" => Origin::Scratch,
        None => Origin::Image(image.to_string()),
    }
}

fn expand_global(
    word: &Word,
    file: &Containerfile,
    inputs: &Inputs<'_>,
) -> Result<String, Problem> {
    let lookup = |name: &str| inputs.globals.get(name).cloned();
    expand(&word.raw, &lookup, file.escape)
        .map_err(|error| Problem::new(word.at, error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::containerfile::parse;

    /// The plan as text: `index: base`, one stage a line.
    fn check(text: &str, target: Option<&str>, expected: &str) {
        let file = parse(text).unwrap();
        let globals = BTreeMap::from([("BASE".to_string(), "debian:12".to_string())]);
        let contexts = BTreeSet::from(["ctx".to_string()]);
        let found = match plan(
            &file,
            &Inputs {
                globals: &globals,
                contexts: &contexts,
                target,
            },
        ) {
            Ok(plan) => {
                let lines = plan
                    .stages
                    .iter()
                    .map(|stage| format!("{}: {:?}", stage.index, stage.base));
                lines.collect::<Vec<_>>().join("\n")
            }
            Err(problems) => problems
                .iter()
                .map(Problem::to_string)
                .collect::<Vec<_>>()
                .join("\n"),
        };
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn unused_stages_are_skipped() {
        let text = "FROM a AS one\nFROM b AS two\nFROM one\nCOPY --from=1 /x /y";
        check(text, None, "0: Image(\"a\")\n1: Image(\"b\")\n2: Stage(0)");
        check(text, Some("ONE"), "0: Image(\"a\")");
        check(text, Some("1"), "1: Image(\"b\")");
        check(
            text,
            Some("three"),
            "3:1: there is no stage `three` to build (stages: one, two)",
        );
    }

    #[test]
    fn names_are_looked_up_in_order_of_nearness() {
        check("FROM $BASE", None, "0: Image(\"debian:12\")");
        check("FROM ctx", None, "0: Context(\"ctx\")");
        check(
            "FROM scratch AS scratch2\nFROM Scratch2",
            None,
            "0: Scratch\n1: Stage(0)",
        );
        check("FROM x AS x", None, "0: Image(\"x\")");
        check(
            "FROM x AS a\nFROM y AS a\nFROM a",
            None,
            "1: Image(\"y\")\n2: Stage(1)",
        );
        check(
            "FROM a\nCOPY --from=late /x /\nFROM b AS late\nFROM 0",
            Some("0"),
            "0: Image(\"a\")",
        );
        check(
            "FROM a\nRUN --mount=type=bind,from=ctx,target=/x true",
            None,
            "0: Image(\"a\")",
        );
    }

    #[test]
    fn what_cannot_be_resolved_is_a_problem() {
        check(
            "FROM $NONE\nCOPY --from=0 a b\nRUN --mount=from=7,target=/x y",
            None,
            "1:6: `FROM`: `$NONE` expands to nothing (give the `ARG` a default or pass a build argument)\n\
             2:6: `--from`: there is no stage 0 before this one\n3:5: `--from`: there is no stage 7 before this one",
        );
    }
}
