//! What holds of every merge, and of every text that claims to be a config.
#![allow(clippy::unwrap_used)]

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

const INSTALLABLE: &str = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

fn owner() -> impl Strategy<Value = Option<Owner>> {
    option::of(prop_oneof![
        Just(Owner::Id(0)),
        Just(Owner::Id(7)),
        Just(Owner::Name("chrony".into())),
    ])
}

fn kind() -> impl Strategy<Value = NodeKind> {
    let mode = || option::of(prop_oneof![Just(0o600), Just(0o644), Just(0o2755)]);
    let from = || prop_oneof![Just("sssd/bind.conf"), Just("sssd/other")];
    let contents = option::of(prop_oneof![
        3 => vec(any::<u8>(), 0..4).prop_map(Contents::Inline),
        1 => from().prop_map(|from| Contents::Secret {
            from: from.parse().unwrap(),
            value: None,
        }),
    ]);
    prop_oneof![
        3 => (contents, mode()).prop_map(|(contents, mode)| NodeKind::File { contents, mode }),
        1 => mode().prop_map(|mode| NodeKind::Directory { mode }),
        1 => option::of("[a-z]{1,3}").prop_map(|target| NodeKind::Link { target }),
    ]
}

fn dropin_text() -> impl Strategy<Value = Option<String>> {
    option::of(prop_oneof![
        Just(String::new()),
        Just("[Service]\nA=b\n".to_owned())
    ])
}

fn unit() -> impl Strategy<Value = Unit> {
    let text = prop_oneof![
        Just(String::new()),
        Just("[Service]\nA=b\n".to_owned()),
        Just(INSTALLABLE.to_owned()),
    ];
    let dropins = btree_map(
        prop_oneof![Just("1.conf"), Just("2.conf")],
        dropin_text(),
        0..3,
    );
    (
        option::of(text),
        any::<Option<bool>>(),
        any::<Option<bool>>(),
        dropins,
    )
        .prop_filter_map(
            "a reader refuses what is enabled and masked at once",
            |(contents, enabled, mask, dropins)| {
                let dropins = dropins.into_iter().map(|(name, contents)| Dropin {
                    name: name.to_owned(),
                    contents,
                });
                (enabled != Some(true) || mask != Some(true)).then(|| Unit {
                    name: String::new(),
                    contents,
                    enabled,
                    mask,
                    dropins: dropins.collect(),
                })
            },
        )
}

/// Any config that the reader would let pass; few paths and names, so that configs meet.
fn config() -> impl Strategy<Value = Config> {
    let paths = prop_oneof![
        Just("/etc/a"),
        Just("/etc/a/b"),
        Just("/etc/c"),
        Just("/etc/c/d/e")
    ];
    let nodes = btree_map(paths, (owner(), owner(), kind()), 0..5);
    let units = btree_map(
        prop_oneof![Just("a.service"), Just("b.service")],
        unit(),
        0..3,
    );
    let core = (
        vec(
            prop_oneof![Just("ssh-ed25519 A"), Just("ssh-ed25519 B")],
            0..2,
        ),
        option::of(Just("*")),
    );
    (nodes, units, core).prop_map(|(nodes, units, (mut ssh_keys, password_hash))| {
        ssh_keys.dedup();
        Config {
            nodes: nodes
                .into_iter()
                .map(|(path, (user, group, kind))| Node {
                    path: path.to_owned(),
                    user,
                    group,
                    kind,
                })
                .collect(),
            units: units
                .into_iter()
                .map(|(name, unit)| Unit {
                    name: name.to_owned(),
                    ..unit
                })
                .collect(),
            core: CoreUser {
                ssh_keys: ssh_keys.into_iter().map(str::to_owned).collect(),
                password_hash: password_hash.map(str::to_owned),
            },
        }
    })
}

/// The same with every path of one kind for ever: replacing one kind by another forgets, and forgetting depends on the order.
fn config_of_fixed_kinds() -> impl Strategy<Value = Config> {
    config().prop_map(|mut config| {
        config.nodes.retain(|node| match node.kind {
            NodeKind::File { .. } => node.path == "/etc/a",
            NodeKind::Directory { .. } => node.path == "/etc/c",
            NodeKind::Link { .. } => node.path == "/etc/c/d/e",
        });
        config
    })
}

fn reversed(mut config: Config) -> Config {
    config.nodes.reverse();
    config.units.reverse();
    for unit in &mut config.units {
        unit.dropins.reverse();
    }
    config.core.ssh_keys.reverse();
    config
}

fn merged(parent: &Config, child: &Config) -> Config {
    merge(parent.clone(), child.clone())
}

#[test]
fn what_a_secret_holds_is_taken_as_it_is() {
    let told = |contents: Value| {
        let files = serde_json::json!([{"path": "/etc/a", "contents": contents}]);
        let config =
            serde_json::json!({"ignition": {"version": "3.4.0"}, "storage": {"files": files}});
        let problems = parse(&config).err().unwrap_or_default();
        problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let source = "secret:sssd/bind.conf";
    assert_eq!(told(serde_json::json!({"source": source})), "");
    for (contents, expected) in [
        (
            serde_json::json!({"source": source, "compression": "gzip"}),
            "compression`: cannot be said of what a Secret holds",
        ),
        (
            serde_json::json!({"source": source, "verification": {"hash": "sha256-00"}}),
            "verification`: cannot be said of what a Secret holds",
        ),
        (
            serde_json::json!({"source": "secret:sssd"}),
            "source`: expected `secret:NAME/KEY`",
        ),
        (
            serde_json::json!({"source": "secret:../etc/passwd"}),
            "no Secret can have this name",
        ),
    ] {
        let seen = told(contents);
        assert!(seen.contains(expected), "{seen}");
    }
}

proptest! {
    #[test]
    fn merging_with_itself_or_nothing_changes_nothing(a in config()) {
        prop_assert_eq!(&merged(&a, &a), &a);
        prop_assert_eq!(&merged(&a, &Config::default()), &a);
        prop_assert_eq!(&merged(&Config::default(), &a), &a);
    }

    #[test]
    fn merging_again_changes_nothing(a in config(), b in config()) {
        let once = merged(&a, &b);
        prop_assert_eq!(&merged(&once, &b), &once);
    }

    #[test]
    fn how_merges_are_grouped_does_not_matter(
        a in config_of_fixed_kinds(), b in config_of_fixed_kinds(), c in config_of_fixed_kinds(),
    ) {
        let left = merged(&merged(&a, &b), &c).canonical();
        let right = merged(&a, &merged(&b, &c)).canonical();
        prop_assert_eq!(left, right);
    }

    #[test]
    fn order_inside_a_config_does_not_matter(a in config(), b in config()) {
        let usual = merged(&a, &b).canonical();
        prop_assert_eq!(merged(&reversed(a), &reversed(b)).canonical(), usual);
    }

    /// Keys are left out: those of these tests are no real ones.
    #[test]
    fn a_merge_is_refused_or_reads_as_it_was_written(a in config(), b in config()) {
        let mut all = merged(&a, &b);
        all.core.ssh_keys.clear();
        let refused = !conflicts(&all).is_empty();
        let all = all.canonical();
        prop_assert!(refused || conflicts(&all).is_empty());
        if !refused {
            prop_assert_eq!(parse(&to_value(&all)).map(Config::canonical), Ok(all));
        }
    }

    #[test]
    fn no_json_makes_the_reader_panic(value in json()) {
        let _ = parse(&value);
        let config = serde_json::json!({"ignition": {"version": "3.4.0"}, "storage": value, "systemd": value, "passwd": value});
        let _ = parse(&config);
    }

    #[test]
    fn no_source_makes_the_decoder_panic(source in "(data:)?[a-z;,%=]{0,12}\\PC{0,8}") {
        let _ = data_url::decode(&source, 100);
        let _ = data_url::gunzip(source.as_bytes(), 100);
    }

    #[test]
    fn no_text_makes_the_unit_reader_panic(text in "[\\[\\]A-Za-z=\\\\#; \n\u{0}é]{0,40}") {
        let _ = (unit::text_problem(&text), has_install_section(&text), unit_name_problem(&text), path::problem(&text, false));
    }
}

/// JSON made of the words that configs are made of.
fn json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("files"),
        Just("units"),
        Just("users"),
        Just("name"),
        Just("path"),
        Just("contents"),
        Just("source"),
        Just("mode"),
        Just("dropins"),
        Just("user"),
        Just("core"),
        Just("/etc/a"),
        Just("data:,%"),
        Just("a.service"),
    ];
    let text = || word.clone().prop_map(Value::from);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text()
    ];
    let keys = word.clone();
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            btree_map(keys.clone().prop_map(str::to_owned), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
