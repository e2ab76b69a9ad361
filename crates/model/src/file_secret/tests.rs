#![allow(clippy::unwrap_used)]
use super::*;
use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use serde_json::json;
use std::sync::Arc;

fn key(text: &str) -> SecretKey {
    text.parse().unwrap()
}

fn secret(name: &str, label: Option<&str>, data: &[(&str, usize)]) -> (String, Arc<Secret>) {
    let label = label.map(|label| (keys::NODE_FILES_LABEL.to_owned(), label.to_owned()));
    let data = data
        .iter()
        .map(|(key, len)| ((*key).to_owned(), ByteString(vec![b'x'; *len])));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: Some("7".to_owned()),
            labels: label.map(|label| BTreeMap::from([label])),
            ..ObjectMeta::default()
        },
        data: Some(data.collect()),
        ..Secret::default()
    };
    (name.to_owned(), Arc::new(secret))
}

#[test]
fn references_are_a_name_and_a_key() {
    let long = format!("{}/k", "a".repeat(254));
    for good in ["sssd-bind/bind.conf", "a.b-c.9/KEY_1", "a/.k", "a/k..k"] {
        assert_eq!(key(good).to_string(), good);
    }
    for bad in [
        "", "a", "/", "a/", "/k", "A/k", "-a/k", "a-/k", "a..b/k", "a/k/l", "a/..", "a/.", "a/..k",
        "a /k", "a/k ", "a/k?x", "../a/k", "//a/k", &long,
    ] {
        let reason = bad.parse::<SecretKey>().unwrap_err();
        assert!(
            reason.starts_with("expected `secret:NAME/KEY`"),
            "{bad}: {reason}"
        );
    }
}

#[test]
fn a_node_is_given_what_is_for_nodes_and_fits() {
    let secrets: BTreeMap<String, Arc<Secret>> = [
        secret(
            "big",
            Some("true"),
            &[("k", MAX_FILE_BYTES + 1), ("max", MAX_FILE_BYTES)],
        ),
        secret("closed", None, &[("k", 1)]),
        secret("no", Some("false"), &[("k", 1)]),
        secret("open", Some("true"), &[("a", 1), ("b", 0)]),
        secret("z", Some("true"), &[("max", MAX_FILE_BYTES), ("one", 1)]),
    ]
    .into();
    let check = |wanted: &[&str], given: &[&str], missing: &[(&str, Why)]| {
        let wanted = wanted.iter().map(|text| key(text)).collect();
        let (values, told) = choose(&wanted, |name| secrets.get(name).cloned());
        let names: Vec<String> = values.keys().map(ToString::to_string).collect();
        assert_eq!(names, given);
        let told: Vec<(String, Why)> = told.iter().map(|m| (m.from.to_string(), m.why)).collect();
        let missing: Vec<(String, Why)> = missing
            .iter()
            .map(|(from, why)| ((*from).to_owned(), *why))
            .collect();
        assert_eq!(told, missing);
    };
    check(&[], &[], &[]);
    check(&["open/a", "open/b"], &["open/a", "open/b"], &[]);
    check(
        &["closed/k", "gone/k", "no/k", "open/a", "open/c"],
        &["open/a"],
        &[
            ("closed/k", Why::NotForNodes),
            ("gone/k", Why::NoSecret),
            ("no/k", Why::NotForNodes),
            ("open/c", Why::NoKey),
        ],
    );
    check(
        &["big/k", "big/max", "z/max", "z/one"],
        &["big/max", "z/max"],
        &[("big/k", Why::TooLarge), ("z/one", Why::TooMuch)],
    );
}

#[test]
fn what_is_missing_is_told_with_its_remedy() {
    let told = |why| {
        let from = key("sssd-bind/bind.conf");
        Missing { from, why }.to_string()
    };
    insta::assert_snapshot!(
        [
            Why::NoSecret,
            Why::NotForNodes,
            Why::NoKey,
            Why::TooLarge,
            Why::TooMuch
        ]
        .map(told)
        .join("\n")
    );
}

#[test]
fn files_are_found_without_reading_the_others() {
    let config = json!({"storage": {"files": [
        {"path": "/etc/a", "contents": {"source": "secret:s/a"}},
        {"path": "/etc/b", "contents": {"source": "data:,secret:s/a"}},
        {"path": "/etc/c", "contents": {"source": "secret:nonsense"}},
        {"path": "/etc/d", "contents": {"compression": "gzip"}},
        {"path": "/etc/e"},
        "nonsense",
    ]}});
    let found = files(&config);
    assert_eq!(
        found,
        [SecretFile {
            path: "/etc/a".to_owned(),
            from: key("s/a")
        }]
    );
    for nothing in [json!(null), json!({"storage": {"files": {}}}), json!([1])] {
        assert!(files(&nothing).is_empty());
    }
}

#[test]
fn a_value_is_not_shown() {
    let value = Value {
        bytes: b"hunter2".to_vec(),
        version: "7".to_owned(),
    };
    let values = Values::from([(key("s/k"), value)]);
    let shown = format!("{values:?} {:?}", versions(&values));
    assert!(
        !shown.contains("hunter2") && !shown.contains("104"),
        "{shown}"
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
        if let Ok(read) = text.parse::<SecretKey>() {
            prop_assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn values_survive_the_way_to_the_node(
        bytes in prop::collection::vec(any::<u8>(), 0..200), version in "[0-9]{0,6}",
    ) {
        let values = Values::from([(key("s/k"), Value { bytes, version })]);
        let text = serde_json::to_string(&values).unwrap();
        prop_assert_eq!(serde_json::from_str::<Values>(&text).unwrap(), values);
    }
}

#[test]
fn versions_are_told_by_where_they_come_from() {
    let versions = |count: usize| -> SecretVersions {
        let from = |at: usize| format!("s-{at}/key").parse().unwrap();
        (0..count).map(|at| (from(at), at.to_string())).collect()
    };
    assert_eq!(to_annotation(&versions(0)), None);
    let told = to_annotation(&versions(2)).unwrap();
    assert_eq!(told, r#"{"s-0/key":"0","s-1/key":"1"}"#);
    assert_eq!(from_annotation(Some(&told)), versions(2));
    let told = to_annotation(&versions(1000));
    assert_eq!(from_annotation(told.as_deref()).len(), 100);
    for other in [None, Some("[]"), Some("{\"s\":1}")] {
        assert_eq!(from_annotation(other), SecretVersions::new());
    }
}
