#![allow(clippy::unwrap_used)]

use super::*;
use crate::manifest::{self, Object};

mod kernel_and_image;
mod merging;
mod refusals;

/// The pool of the tests takes what is for workers and what is for itself.
fn pool() -> MachineConfigPool {
    let selector = json!({"matchExpressions": [
        {"key": keys::ROLE, "operator": "In", "values": ["worker", "infra"]},
    ]});
    let mut pool = MachineConfigPool::new(
        "infra",
        serde_json::from_value(json!({"machineConfigSelector": selector})).unwrap(),
    );
    pool.metadata.uid = Some("1-2-3".into());
    pool
}

fn defaults() -> Defaults {
    Defaults {
        os_image_url: "quay.io/os/base:1".into(),
        extensions_image: String::new(),
    }
}

/// A MachineConfig from its name, its role, and the YAML of its spec.
fn config(name: &str, role: &str, spec: &str) -> MachineConfig {
    let indented = spec.trim_matches('\n').replace('\n', "\n  ");
    let text = format!(
        "apiVersion: machineconfiguration.openshift.io/v1\nkind: MachineConfig\nmetadata: {{name: {name}, labels: {{{}: {role}}}}}\nspec:\n  {indented}\n",
        keys::ROLE
    );
    match manifest::parse(&text).map_err(|error| format!("{error}\n{text}")) {
        Ok(mut objects) => match objects.pop() {
            Some(Object::MachineConfig(config)) => *config,
            other => panic!("{other:?}"),
        },
        Err(error) => panic!("{error}"),
    }
}

/// A MachineConfig for workers whose spec is an Ignition config; `body` follows the version.
fn ignition_config(name: &str, body: &str) -> MachineConfig {
    let body = body.trim_matches('\n').replace('\n', "\n  ");
    config(
        name,
        "worker",
        &format!("config:\n  ignition: {{version: 3.4.0}}\n  {body}"),
    )
}

/// Renders, and checks of every success what must hold of all: it reads as it was written, and is the same again.
fn rendered(configs: &[MachineConfig]) -> Result<Rendered, String> {
    let result = render(&pool(), configs, &defaults()).map_err(|error| error.to_string())?;
    let written = ignition::parse(result.config.spec.config.as_ref().unwrap()).unwrap();
    let again = ignition::to_value(&written.clone().canonical());
    assert_eq!(Some(&again), result.config.spec.config.as_ref());
    assert_eq!(ignition::conflicts(&written), []);
    let reversed: Vec<MachineConfig> = configs.iter().rev().cloned().collect();
    assert_eq!(render(&pool(), &reversed, &defaults()).unwrap(), result);
    Ok(result)
}

fn name_of_render(configs: &[MachineConfig]) -> String {
    rendered(configs).unwrap().name().to_owned()
}

fn error(configs: &[MachineConfig]) -> String {
    rendered(configs).unwrap_err()
}

/// The rendered Ignition config, with contents as text.
fn text(configs: &[MachineConfig]) -> String {
    let result = rendered(configs).unwrap();
    let config = ignition::parse(result.config.spec.config.as_ref().unwrap()).unwrap();
    let contents = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes));
    serde_saphyr::to_string(&ignition::write(&config, &contents)).unwrap()
}

#[test]
fn a_whole_render() {
    let configs = [
        config(
            "50-infra",
            "infra",
            "
osImageURL: quay.io/os/other:2
kernelArguments: [nosmt]
config:
  ignition: {version: 3.2.0}
  storage: {files: [{path: /etc/motd, contents: {source: 'data:,infra'}}]}
",
        ),
        config(
            "99-worker",
            "worker",
            "
kernelArguments: [nosmt, quiet]
fips: true
config:
  ignition: {version: 3.4.0}
  storage: {files: [{path: /etc/motd, mode: 0600, contents: {source: 'data:,worker'}}]}
",
        ),
        config("00-master", "master", "kernelArguments: [never]"),
    ];
    let result = rendered(&configs).unwrap();
    insta::assert_yaml_snapshot!(result.config);
    insta::assert_yaml_snapshot!(result.configuration());
    assert_eq!(
        result.provenance.of_path("/etc/motd"),
        ["99-worker", "50-infra"]
    );
    assert_eq!(
        Provenance::of([&configs[1], &configs[0]]),
        result.provenance
    );
}

#[test]
fn selection() {
    let only = |selector: Value| {
        let mut pool = pool();
        pool.spec.machine_config_selector = serde_json::from_value(selector).unwrap();
        let configs = [
            config("a", "worker", "fips: false"),
            config("b", "infra", "fips: true"),
        ];
        render(&pool, &configs, &defaults()).map_err(|error| (error.reason(), error.to_string()))
    };
    assert_eq!(
        only(json!({"matchLabels": {keys::ROLE: "infra"}}))
            .unwrap()
            .sources,
        ["b"]
    );
    let refused: Vec<String> = [
        json!(null),
        json!({}),
        json!({"matchLabels": {keys::ROLE: "nobody"}}),
        json!({"matchExpressions": [{"key": keys::ROLE, "operator": "Is", "values": ["worker"]}]}),
    ]
    .into_iter()
    .map(|selector| {
        let (reason, message) = only(selector).unwrap_err();
        format!("{reason}: {message}")
    })
    .collect();
    insta::assert_snapshot!(refused.join("\n"));
}

#[test]
fn rendered_configs_are_never_sources() {
    let first = rendered(&[config("a", "worker", "fips: true")])
        .unwrap()
        .config;
    let mut pool = pool();
    let all_but_master = json!({"matchExpressions": [{"key": keys::ROLE, "operator": "NotIn", "values": ["master"]}]});
    pool.spec.machine_config_selector = serde_json::from_value(all_but_master).unwrap();
    let configs = [first, config("a", "worker", "fips: true")];
    assert_eq!(render(&pool, &configs, &defaults()).unwrap().sources, ["a"]);
}

#[test]
fn equal_content_has_one_name() {
    let file = |contents: &str, more: &str| {
        name_of_render(&[ignition_config(
            "a",
            &format!("storage: {{files: [{{path: /etc/a, contents: {{{contents}}}{more}}}]}}"),
        )])
    };
    let usual = file("source: 'data:,hello'", "");
    assert!(usual.starts_with("rendered-infra-") && usual.len() == "rendered-infra-".len() + 32);
    // Each of these is the same file for a node.
    for same in [
        file("source: 'data:;base64,aGVsbG8='", ""),
        file("source: 'data:text/plain;charset=utf-8,hel%6Co'", ""),
        file(
            "compression: gzip, source: 'data:;base64,H4sIAAAAAAAAA8tIzcnJBwCGphA2BQAAAA=='",
            "",
        ),
        file("compression: '', source: 'data:,hello'", ""),
        file(
            "source: 'data:,hello', verification: {hash: sha256-2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824}",
            "",
        ),
        file("source: 'data:,hello'", ", mode: 0644"),
        file("source: 'data:,hello'", ", overwrite: false"),
        file(
            "source: 'data:,hello'",
            ", user: {id: 0}, group: {name: root}",
        ),
    ] {
        assert_eq!(same, usual);
    }
    for other in [
        file("source: 'data:,hallo'", ""),
        file("source: 'data:,hello'", ", mode: 0600"),
    ] {
        assert_ne!(other, usual);
    }
}

#[test]
fn order_and_absence_do_not_change_the_name() {
    let usual = ignition_config("a", "
storage: {files: [{path: /etc/a, contents: {source: 'data:,'}}, {path: /etc/b, contents: {source: 'data:,'}}]}
systemd: {units: [{name: a.service, dropins: [{name: 1.conf, contents: '[Unit]'}, {name: 2.conf, contents: '[Unit]'}]}]}
");
    let same = ignition_config("a", "
storage: {directories: [], disks: [], files: [{path: /etc/b, contents: {source: 'data:,'}}, {path: /etc/a, contents: {source: 'data:,'}}]}
systemd: {units: [{name: a.service, contents: '', mask: false, dropins: [{name: 2.conf, contents: '[Unit]'}, {name: 1.conf, contents: '[Unit]'}]}, {name: b.service}]}
passwd: {users: []}
");
    assert_eq!(name_of_render(&[same]), name_of_render(&[usual]));
}

#[test]
fn a_large_file_fits_and_a_larger_one_does_not() {
    let of = |bytes: &[u8]| {
        use base64::Engine;
        let source = base64::engine::general_purpose::STANDARD.encode(bytes);
        ignition_config(
            "a",
            &format!(
                "storage: {{files: [{{path: /etc/a, contents: {{source: 'data:;base64,{source}'}}}}]}}"
            ),
        )
    };
    rendered(&[of(&vec![b'x'; 4_000_000])]).unwrap();
    let mut noise = Vec::new();
    while noise.len() < 1_500_000 {
        noise.extend(Sha256::digest(noise.len().to_le_bytes()));
    }
    let message = error(&[of(&noise)]);
    assert!(
        message.contains("the largest file is `/etc/a`"),
        "{message}"
    );
}
