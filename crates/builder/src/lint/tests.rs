#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn check(text: &str, expected: &[&str]) {
    let found: Vec<String> = lint(text)
        .iter()
        .map(|finding| format!("{} {}", finding.at, finding.id))
        .collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn what_is_fine_is_not_mentioned() {
    check(
        "ARG V=1\nFROM a:$V AS one\nARG V\nRUN apt-get update && apt-get install -y x\nCOPY x$V /\nFROM one\nCMD [\"x\"]",
        &[],
    );
    check(
        "FROM scratch\nCOPY . /\nRUN [ -e /x ]\nRUN [[ a = b ]]",
        &[],
    );
    check("FROM configs AS final\nRUN systemctl enable x", &[]);
}

/// A rule; what breaks it, with the place; what is near to that and does not.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
);

const TABLE: &[Case] = &[
    (
        "syntax",
        &[("FROM a:1\nCOPPY a b", "2:1"), ("RUN x", "1:1")],
        &[],
    ),
    (
        "later-stage",
        &[
            ("FROM a:1\nCOPY --from=1 a b", "2:6"),
            ("FROM a:1\nCOPY --from=b x /\nFROM c:1 AS b", "2:6"),
        ],
        &["FROM a:1 AS b\nFROM c:1\nCOPY --from=b x /"],
    ),
    (
        "undefined-arg-in-from",
        &[("FROM $X", "1:6"), ("FROM a:1\nARG X\nFROM b:$X", "3:6")],
        &[
            "ARG X=1\nFROM a:$X",
            "FROM a:${X:-1}",
            "FROM a:1-$TARGETARCH",
        ],
    ),
    (
        "untagged-base",
        &[
            ("FROM a", "1:6"),
            ("FROM a:latest", "1:6"),
            ("FROM r.example:5000/a", "1:6"),
        ],
        &[
            "FROM scratch",
            "FROM configs",
            "FROM a:1",
            "FROM a@sha256:x",
            "FROM a:1 AS b\nFROM b",
        ],
    ),
    (
        "unchecked-download",
        &[("FROM a:1\nADD https://x.example/a /", "2:5")],
        &[
            "FROM a:1\nADD --checksum=sha256:x https://x.example/a /",
            "FROM a:1\nADD a /",
            "FROM a:1\nADD https://x.example/a.git#v1 /",
        ],
    ),
    (
        "update-alone",
        &[
            ("FROM a:1\nRUN apt-get update", "2:1"),
            ("FROM a:1\nRUN x && apt update", "2:1"),
        ],
        &["FROM a:1\nRUN apt-get update && apt-get install -y x"],
    ),
    (
        "secret-in-image",
        &[
            ("FROM a:1\nENV DB_PASSWORD=x", "2:5"),
            ("FROM a:1\nARG API_TOKEN", "2:5"),
        ],
        &[
            "FROM a:1\nENV DB_PASSWORD_FILE=/run/secrets/x",
            "FROM a:1\nENV KEYBOARD=x",
        ],
    ),
    (
        "password-in-step",
        &[
            (
                "FROM a:1\nRUN curl -o /x https://me:s3cret@r.example/x",
                "2:1",
            ),
            ("FROM a:1\nRUN echo core:x | chpasswd", "2:1"),
            (
                "FROM a:1\nRUN subscription-manager register --username a --password b",
                "2:1",
            ),
        ],
        &[
            "FROM a:1\nRUN curl https://me:$PASSWORD@r.example/x https://r.example:8443/a@b",
            "FROM a:1\nRUN tool --password $(cat /run/secrets/p) --password-file /run/secrets/p",
        ],
    ),
    (
        "no-selinux",
        &[("FROM a:1\nRUN true && /usr/sbin/setsebool -P x 1", "2:1")],
        &["FROM a:1\nRUN getsebool -a"],
    ),
    (
        "no-systemd",
        &[
            ("FROM a:1\nRUN systemctl enable --now x", "2:1"),
            ("FROM a:1\nRUN <<E\nsystemctl start x\nE", "2:1"),
        ],
        &["FROM a:1\nRUN systemctl enable x"],
    ),
    (
        "lost-cd",
        &[("FROM a:1\nRUN cd /x", "2:1")],
        &[
            "FROM a:1\nRUN cd /x && make",
            "FROM a:1\nRUN <<E\ncd /x\nmake\nE",
        ],
    ),
    (
        "install-asks",
        &[
            ("FROM a:1\nRUN dnf install x", "2:1"),
            ("FROM a:1\nRUN DEBIAN_FRONTEND=x apt-get install x", "2:1"),
        ],
        &[
            "FROM a:1\nRUN dnf -qy install x",
            "FROM a:1\nRUN zypper --non-interactive install x",
        ],
    ),
    (
        "sudo",
        &[("FROM a:1\nRUN sudo ls", "2:1")],
        &["FROM a:1\nRUN visudo -c"],
    ),
    (
        "left-over-cache",
        &[("FROM a:1\nRUN rpm-ostree install x", "2:1")],
        &["FROM a:1\nRUN rpm-ostree install x && ostree container commit"],
    ),
    (
        "arg-not-in-stage",
        &[
            ("ARG X=1\nFROM a:$X\nCOPY $X /", "3:6"),
            ("FROM a:1\nWORKDIR /$TARGETARCH", "2:9"),
        ],
        &[
            "ARG X=1\nFROM a:$X\nARG X\nCOPY $X /",
            "FROM a:1\nUSER $FROM_BASE",
        ],
    ),
    (
        "unused-arg",
        &[("ARG X\nFROM a:1", "1:5")],
        &[
            "ARG X=1\nFROM a:$X",
            "ARG X\nFROM a:1\nARG X",
            "ARG X=1\nARG Y=$X\nFROM a:$Y",
        ],
    ),
    (
        "unused-stage",
        &[("FROM a:1 AS x\nFROM b:1", "1:1")],
        &[
            "FROM a:1 AS x\nFROM x",
            "FROM a:1 AS x\nFROM b:1\nCOPY --from=0 / /",
            "FROM a:1 AS x\nFROM b:1\nRUN --mount=from=x,target=/x ls",
        ],
    ),
    (
        "stage-named-twice",
        &[("FROM a:1 AS x\nFROM b:1 AS X\nFROM x", "2:1")],
        &["FROM a:1 AS x\nFROM x AS y\nFROM y"],
    ),
    (
        "overridden-cmd",
        &[("FROM a:1\nCMD a\nCMD b", "2:1")],
        &["FROM a:1 AS x\nCMD a\nFROM x\nCMD b"],
    ),
    (
        "overridden-entrypoint",
        &[("FROM a:1\nENTRYPOINT a\nENTRYPOINT b", "2:1")],
        &["FROM a:1\nENTRYPOINT a\nCMD b"],
    ),
    (
        "overridden-healthcheck",
        &[("FROM a:1\nHEALTHCHECK NONE\nHEALTHCHECK CMD b", "2:1")],
        &[],
    ),
    (
        "not-json",
        &[
            ("FROM a:1\nCMD ['a', 'b']", "2:1"),
            ("FROM a:1\nRUN [\"a\", b]", "2:1"),
        ],
        &["FROM a:1\nRUN [ -e /x ]", "FROM a:1\nCMD [\"a\"]"],
    ),
    (
        "relative-workdir",
        &[("FROM a:1\nWORKDIR x", "2:9")],
        &["FROM a:1\nWORKDIR /x\nWORKDIR y", "FROM a:1\nWORKDIR $X"],
    ),
    (
        "keyword-case",
        &[("FROM a:1\nRun true", "2:1")],
        &["FROM a:1\nrun true"],
    ),
    (
        "maintainer",
        &[("FROM a:1\nMAINTAINER x", "2:1")],
        &["FROM a:1\nLABEL a=x"],
    ),
];

#[test]
fn every_rule_is_tried() {
    let tried: BTreeSet<&str> = TABLE.iter().map(|(id, ..)| *id).collect();
    let known: BTreeSet<&str> = rules().map(|rule| rule.id).collect();
    assert_eq!(tried, known);
    assert_eq!(rules().count(), known.len(), "an id is used twice");
    for (id, bad, good) in TABLE {
        let places = |text: &str| -> Vec<String> {
            let all = lint(text).into_iter();
            all.filter(|finding| finding.id == *id)
                .map(|finding| finding.at.to_string())
                .collect()
        };
        for (text, place) in *bad {
            assert_eq!(places(text), [*place], "{id}: {text}");
        }
        for text in *good {
            assert_eq!(places(text), Vec::<String>::new(), "{id}: {text}");
        }
    }
}

#[test]
fn comments_silence_warnings_but_no_errors() {
    check(
        "# lint ignore=untagged-base\nFROM a\nRUN cd x",
        &["3:1 lost-cd"],
    );
    check(
        "FROM a:1\n# lint ignore=lost-cd, sudo\n\nRUN cd x\nRUN cd x",
        &["5:1 lost-cd"],
    );
    check("# lint ignore=syntax\nFRM a", &["2:1 syntax"]);
}

proptest! {
    #[test]
    fn nothing_panics(text in "(FROM|RUN|COPY|ARG|ENV|#|<<E|E|[a-z$@{}:=\\\\\"' /\n-]){0,60}") {
        lint(&text);
    }

    #[test]
    fn findings_come_in_order(text in "(FROM a\n|RUN cd x\n|MAINTAINER m\n|WORKDIR w\n){1,12}") {
        let places: Vec<_> = lint(&text).iter().map(|finding| finding.at).collect();
        prop_assert!(places.is_sorted());
    }
}
