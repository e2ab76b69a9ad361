//! What several MachineConfigs come to.

use super::*;

fn for_infra(name: &str, body: &str) -> MachineConfig {
    let mut config = ignition_config(name, body);
    config.metadata.labels = Some(BTreeMap::from([(
        keys::ROLE.to_owned(),
        "infra".to_owned(),
    )]));
    config
}

#[test]
fn the_pool_overrides_the_workers() {
    let configs = [
        for_infra("00-infra", "
storage:
  files: [{path: /etc/a, contents: {source: 'data:,infra'}}]
  links: [{path: /etc/was-file, target: /etc/a}]
systemd: {units: [{name: a.service, enabled: false, dropins: [{name: 10.conf, contents: '[Service]'}]}]}
passwd: {users: [{name: core, sshAuthorizedKeys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA], passwordHash: $y$b}]}
"),
        ignition_config("99-worker", "
storage:
  files:
    - {path: /etc/was-file, contents: {source: 'data:,x'}}
    - {path: /etc/a, mode: 0600, user: {name: chrony}, contents: {source: 'data:,worker'}}
  directories: [{path: /etc/d, mode: 0700}]
systemd: {units: [{name: a.service, enabled: true, contents: \"[Service]\\n[Install]\\nWantedBy=a\"}]}
passwd: {users: [{name: core, sshAuthorizedKeys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA admin], passwordHash: $y$a}]}
"),
    ];
    insta::assert_snapshot!(text(&configs));
}

/// Changing only the mode of a compressed file must not make its compressed bytes the contents.
#[test]
fn compression_stays_with_its_contents() {
    let configs = [
        ignition_config(
            "a",
            "storage: {files: [{path: /etc/a, contents: {compression: gzip, source: 'data:;base64,H4sIAAAAAAAAA8tIzcnJBwCGphA2BQAAAA=='}}]}",
        ),
        ignition_config("b", "storage: {files: [{path: /etc/a, mode: 0600}]}"),
    ];
    insta::assert_snapshot!(text(&configs), @r#"
    ignition:
      version: "3.5.0"
    storage:
      files:
      - contents: hello
        mode: 384
        overwrite: true
        path: /etc/a
    "#);
}

/// A hash must not outlive the contents it was of.
#[test]
fn a_hash_goes_with_its_contents() {
    let configs = [
        ignition_config(
            "a",
            "storage: {files: [{path: /etc/a, contents: {source: 'data:,hello', verification: {hash: sha256-2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824}}}]}",
        ),
        ignition_config(
            "b",
            "storage: {files: [{path: /etc/a, contents: {source: 'data:,bye'}}]}",
        ),
    ];
    let result = rendered(&configs).unwrap();
    let json = result.config.spec.config.unwrap().to_string();
    assert!(
        !json.contains("verification") && !json.contains("hash"),
        "{json}"
    );
}

/// A user by number in one MachineConfig and by name in another is one user, the later one.
#[test]
fn an_owner_is_replaced_as_a_whole() {
    let configs = [
        ignition_config(
            "a",
            "storage: {files: [{path: /etc/a, user: {id: 99}, group: {name: audio}, contents: {source: 'data:,'}}]}",
        ),
        ignition_config(
            "b",
            "storage: {files: [{path: /etc/a, user: {name: chrony}, group: {id: 0}}]}",
        ),
    ];
    insta::assert_snapshot!(text(&configs), @r#"
    ignition:
      version: "3.5.0"
    storage:
      files:
      - contents: ""
        mode: 420
        overwrite: true
        path: /etc/a
        user:
          name: chrony
    "#);
}

#[test]
fn a_mask_leaves_nothing_else() {
    let configs = [
        ignition_config(
            "a",
            "systemd: {units: [{name: a.service, contents: '[Service]', dropins: [{name: 1.conf, contents: '[Service]'}]}]}",
        ),
        ignition_config(
            "b",
            "systemd: {units: [{name: a.service, mask: true, enabled: false}]}",
        ),
    ];
    insta::assert_snapshot!(text(&configs), @r#"
    ignition:
      version: "3.5.0"
    systemd:
      units:
      - mask: true
        name: a.service
    "#);
}

#[test]
fn an_empty_dropin_removes_another() {
    let configs = [
        ignition_config(
            "a",
            "systemd: {units: [{name: a.service, dropins: [{name: 1.conf, contents: '[Service]'}]}]}",
        ),
        ignition_config(
            "b",
            "systemd: {units: [{name: a.service, dropins: [{name: 1.conf, contents: ''}]}]}",
        ),
    ];
    insta::assert_snapshot!(text(&configs), @r#"
    ignition:
      version: "3.5.0"
    "#);
}
