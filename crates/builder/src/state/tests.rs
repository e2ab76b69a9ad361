#![allow(clippy::unwrap_used)]
use super::*;
use crate::containerfile::parse;

/// Evaluates the instructions of a one-stage file; returns the final state and the actions.
fn evaluate(text: &str) -> Result<(State, Vec<Action>), Problem> {
    let file = parse(&format!("FROM a\n{text}")).unwrap();
    let map = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect()
    };
    let globals = map(&[("GLOBAL", "g"), ("TARGETARCH", "amd64")]);
    let build_args = map(&[("GIVEN", "yes"), ("http_proxy", "http://p")]);
    let config = ImageConfig::scratch("linux", "amd64", None);
    let mut state = State::new(config, &globals, &build_args, file.escape);
    let mut actions = Vec::new();
    for instruction in &file.stages[0].instructions {
        match state.apply(instruction)? {
            Action::None => {}
            action => actions.push(action),
        }
    }
    Ok((state, actions))
}

fn run(text: &str) -> RunAction {
    match evaluate(text).unwrap().1.pop() {
        Some(Action::Run(run)) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn args_have_scopes_and_env_wins() {
    let env = run("ARG GIVEN=default\nARG GLOBAL\nARG UNSET\nARG A=$GIVEN-$GLOBAL\nENV A=env\nENV A=${A}2 B=$A\nRUN x").env;
    assert_eq!(env["GIVEN"], "yes");
    assert_eq!(env["GLOBAL"], "g");
    assert!(!env.contains_key("UNSET"));
    assert_eq!((env["A"].as_str(), env["B"].as_str()), ("env2", "env"));
    assert_eq!(env["PATH"], DEFAULT_PATH);
}

#[test]
fn proxies_are_passed_but_not_keyed() {
    let run = run("RUN x");
    assert_eq!(run.proxies["http_proxy"], "http://p");
    assert!(
        !serde_json::to_string(&Action::Run(run))
            .unwrap()
            .contains("http://p")
    );
}

#[test]
fn heredocs_are_scripts_or_go_to_the_shell() {
    let args = |text: &str| run(text).args;
    assert_eq!(args("RUN <<E\na\nb\nE"), ["/bin/sh", "-c", "a\nb\n"]);
    assert_eq!(args("RUN <<-E\n\ta\n\tE"), ["/bin/sh", "-c", "a\n"]);
    assert_eq!(
        args("RUN cat <<E > f\n$x\nE"),
        ["/bin/sh", "-c", "cat <<E > f\n$x\nE"]
    );
    assert_eq!(
        run("RUN <<E\n#!/bin/perl\nx\nE").script.as_deref(),
        Some("#!/bin/perl\nx\n")
    );
    assert_eq!(args("SHELL [\"/b\", \"-x\"]\nRUN a"), ["/b", "-x", "a"]);
    assert_eq!(args("RUN [\"a\", \"b c\"]"), ["a", "b c"]);
}

#[test]
fn paths_are_relative_to_the_working_directory() {
    let (state, actions) =
        evaluate("WORKDIR /a\nWORKDIR b/../c\nCOPY x y\nCOPY x .\nCOPY x /z/").unwrap();
    assert_eq!(state.config.config.working_dir, "/a/c");
    let dests: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Copy(copy) => Some(copy.dest.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(dests, ["/a/c/y", "/a/c/", "/z/"]);
}

#[test]
fn configuration_follows_the_instructions() {
    let (state, _) = evaluate(
        "CMD a\nENTRYPOINT [\"e\"]\nEXPOSE 80 90-91/udp\nVOLUME /v\nUSER u\nLABEL x=\"a b\" y=$HOME\n\
         HEALTHCHECK --interval=1s CMD x\nONBUILD RUN y\nSTOPSIGNAL 9\nMAINTAINER me",
    )
    .unwrap();
    insta::assert_yaml_snapshot!(state.config);
}

#[test]
fn entrypoint_forgets_the_command_of_the_base() {
    let (mut state, _) = evaluate("USER u").unwrap();
    state.config.config.cmd = Some(vec!["base".into()]);
    let file = parse("FROM a\nENTRYPOINT x").unwrap();
    state.apply(&file.stages[0].instructions[0]).unwrap();
    assert_eq!(state.config.config.cmd, None);
}

#[test]
fn bad_values_are_problems_at_their_place() {
    for (text, expected) in [
        (
            "COPY a b c",
            "2:10: with several sources the destination must end with `/`",
        ),
        (
            "EXPOSE x",
            "2:8: `EXPOSE`: expected a port such as `80` or `8000-8010/udp`, found `x`",
        ),
        (
            "COPY --chmod=rwx a b",
            "2:6: `--chmod`: expected a mode such as 0755 or u+x,go-w, found `rwx`",
        ),
        ("ENV a=\"${b:?need b}\"", "2:5: variable `b`: need b"),
        ("USER $none", "2:6: `USER`: expected a user, found nothing"),
        (
            "RUN --mount=type=tmpfs,target=/ x",
            "2:5: `--mount`: field `target`: `/` cannot be mounted over",
        ),
    ] {
        assert_eq!(evaluate(text).unwrap_err().to_string(), expected, "{text}");
    }
}
