#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

/// Instructions as one line each, or the problems.
fn check(text: &str) -> String {
    match parse(text) {
        Ok(file) => {
            let mut out = String::new();
            for arg in &file.args {
                out += &format!(
                    "{} arg {} {:?}\n",
                    arg.at,
                    arg.name,
                    arg.default.as_ref().map(|word| &word.raw)
                );
            }
            for stage in &file.stages {
                out += &format!("{} stage {} {:?}\n", stage.at, stage.image.raw, stage.name);
                for instruction in &stage.instructions {
                    out += &format!("{} {}\n", instruction.at, brief(&instruction.kind));
                }
            }
            out
        }
        Err(problems) => problems
            .iter()
            .map(|problem| format!("{problem}\n"))
            .collect(),
    }
}

fn brief(kind: &Kind) -> String {
    let words = |words: &[Word]| {
        words
            .iter()
            .map(|word| word.raw.clone())
            .collect::<Vec<_>>()
            .join(" | ")
    };
    match kind {
        Kind::Run(run) => {
            let mounts: Vec<_> = run
                .mounts
                .iter()
                .map(|mount| format!("{:?}", mount.kind))
                .collect();
            format!(
                "run {:?} {} heredocs {} {:?}",
                run.command,
                run.heredocs.len(),
                mounts.join(" "),
                run.network
            )
        }
        Kind::Copy(copy) => format!(
            "copy {:?} from {:?} to {} chown {:?}",
            copy.sources
                .iter()
                .map(|source| match source {
                    Source::Path(word) => word.raw.clone(),
                    Source::Heredoc(heredoc) => format!("<<{} {:?}", heredoc.name, heredoc.text()),
                })
                .collect::<Vec<_>>(),
            copy.from.as_ref().map(|word| &word.raw),
            copy.dest.raw,
            copy.chown.as_ref().map(|word| &word.raw),
        ),
        Kind::Env(pairs) | Kind::Label(pairs) => pairs
            .iter()
            .map(|(key, value)| format!("{} := {}", key.raw, value.raw))
            .collect::<Vec<_>>()
            .join(", "),
        Kind::Volume(list) | Kind::Expose(list) => words(list),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_file_with_everything() {
    insta::assert_snapshot!(check(
        r#"# syntax=docker/dockerfile:1
ARG BASE=debian:12
FROM --platform=linux/amd64 ${BASE} AS Configs
ENV A=1 B="two words"
ENV OLD style value
LABEL a.b=c "d e"='f g'
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --network=none apt-get update \
    # a note
    && apt-get install -y autofs
RUN ["/bin/true", "a b"]
RUN <<EOF
echo hi
EOF
COPY --from=0 --chown=1:2 /a /b /dest/
COPY ["with space", "/dest dir/"]
COPY <<one.txt <<'two.txt' /etc/
1
one.txt
2 $x
two.txt
VOLUME /data /more
EXPOSE 80/tcp 443
WORKDIR /some where
HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f localhost
HEALTHCHECK NONE
SHELL ["/bin/bash", "-c"]
CMD ["x"]
ENTRYPOINT exec top
STOPSIGNAL SIGTERM
ONBUILD RUN echo hi
FROM scratch
FROM configs as final
user 1000:1000
"#
    ));
}

#[test]
fn every_problem_is_reported_at_its_place() {
    insta::assert_snapshot!(check(
        r#"LABEL early=1
FROM
FROM a b
FROM a AS 1x
RUNN x
COPPY a b
COPY a
COPY --form=x a b
RUN --mount=type=cache x
RUN --mount=type=nope,target=/x x
RUN --mount=type=bind,targt=/x x
RUN --network=offline x
RUN
ENV a
ENV a=1 b
ARG 9x
SHELL /bin/sh
HEALTHCHECK --interval=soon CMD x
HEALTHCHECK curl
ONBUILD FROM x
ADD https://example.com/x /
WORKDIR
  && apt-get install
"#
    ));
}

#[test]
fn an_empty_file_needs_a_from() {
    assert_eq!(
        check(""),
        "1:1: expected at least one `FROM`, found no instruction that starts a stage\n"
    );
    assert_eq!(check("# only\nARG x"), check(""));
}

#[test]
fn the_escape_directive_changes_quoting_of_json_paths() {
    assert_eq!(
        check("# escape=`\nFROM a\nCOPY [\"c:\\\\x\", \"d\"]"),
        "2:1 stage a None\n3:1 copy [\"\\\"c:\\\\x\\\"\"] from None to \"d\" chown None\n"
    );
}

/// Text that looks like a Containerfile often enough to reach every parser.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("FROM ".to_string()),
        Just("RUN ".into()),
        Just("COPY ".into()),
        Just("--mount=type=".into()),
        Just("cache,target=/x,".into()),
        Just("<<EOF".into()),
        Just("\nEOF\n".into()),
        Just("\\\n".into()),
        Just("${a:-".into()),
        Just("HEALTHCHECK --interval=1s CMD ".into()),
        Just("ENV a=".into()),
        Just("[\"x\",".into()),
        "[ -~\n\t'\"$é\\\\]{0,6}",
        "\\PC{0,4}",
    ];
    proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text in texts()) {
        if let Ok(file) = parse(&text) {
            for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
                prop_assert!(instruction.at.line >= 1 && instruction.at.column >= 1);
            }
        }
        let lookup = |name: &str| name.len().is_multiple_of(2).then(|| name.to_string());
        let _ = expand(&text, &lookup, '\\');
        let _ = expand_text(&text, &lookup, '`');
    }

    #[test]
    fn a_parsed_text_is_parsed_the_same_again(text in texts()) {
        // Joined instructions, written one a line, are the same instructions.
        let Ok(file) = parse(&format!("FROM a\n{text}")) else { return Ok(()) };
        let instructions: Vec<_> = file.stages.iter().flat_map(|stage| &stage.instructions).collect();
        prop_assume!(instructions.iter().all(|one| !one.text.contains("<<") && !one.text.ends_with('\\')));
        prop_assume!(file.stages.len() == 1);
        let again = instructions.iter().fold("FROM a\n".to_string(), |all, one| all + &one.text + "\n");
        let parsed = parse(&again).map_err(|problems| TestCaseError::fail(format!("{problems:?}")))?;
        let parsed: Vec<_> = parsed.stages.iter().flat_map(|stage| &stage.instructions).map(|one| &one.text).collect();
        prop_assert_eq!(parsed, instructions.iter().map(|one| &one.text).collect::<Vec<_>>());
    }
}
