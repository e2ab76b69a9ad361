//! What each MachineConfig alone, or several together, must not say. Every message names object and field.

use super::*;

#[test]
fn together() {
    let file = |name: &str, body: &str| ignition_config(name, &format!("storage: {{{body}}}"));
    let found = [
        // A file without contents would be published as something that no node takes.
        error(&[file("a", "files: [{path: /etc/a}]")]),
        error(&[
            file("a", "files: [{path: /etc/a, mode: 0600}]"),
            file("b", "files: [{path: /etc/a, contents: {}}]"),
        ]),
        error(&[file("a", "links: [{path: /etc/a}]")]),
        // A file below another's link or file.
        error(&[
            file("a", "links: [{path: /etc/d, target: /var/d}]"),
            file(
                "b",
                "files: [{path: /etc/d/f, contents: {source: 'data:,'}}]",
            ),
        ]),
        error(&[file(
            "a",
            "files: [{path: /etc/f, contents: {source: 'data:,'}}, {path: /etc/f/g/h, contents: {source: 'data:,'}}]",
        )]),
        // One place under two names.
        error(&[
            file(
                "a",
                "files: [{path: /var/mnt/a, contents: {source: 'data:,'}}]",
            ),
            file(
                "b",
                "files: [{path: /mnt/a, contents: {source: 'data:,'}}, {path: /mnt/a/b, contents: {source: 'data:,'}}]",
            ),
        ]),
        error(&[
            file(
                "a",
                "files: [{path: /etc/systemd/system/a.service, contents: {source: 'data:,'}}]",
            ),
            ignition_config(
                "b",
                "systemd: {units: [{name: a.service, contents: '[Unit]'}]}",
            ),
        ]),
        // Enabled by one, masked by the other.
        error(&[
            ignition_config("a", "systemd: {units: [{name: a.service, enabled: true}]}"),
            ignition_config("b", "systemd: {units: [{name: a.service, mask: true}]}"),
        ]),
        error(&[ignition_config(
            "a",
            "systemd: {units: [{name: a.service, enabled: true, contents: '[Service]'}]}",
        )]),
    ];
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn files() {
    let found: Vec<String> = [
        "path: /etc/a, contents: {inline: hello}",
        "path: /etc/a, contents: {source: ''}",
        "path: /etc/a, contents: {source: 'https://example.com/a'}",
        "path: /etc/a, contents: {source: 'data:,plain', compression: gzip}",
        "path: /etc/a, contents: {source: 'data:,plain', compression: xz}",
        "path: /etc/a, contents: {source: 'data:,plain', verification: {hash: sha512-00}}",
        "path: /etc/a, contents: {compression: gzip, verification: {hash: sha512-00}}",
        "path: /etc/a, append: [{source: 'data:,x'}]",
        "Path: /etc/a, Contents: {}",
        "path: etc/a",
        "path: /",
        r#"path: "/etc/a\0b""#,
        "path: /usr/bin/a",
        "path: /data/a",
        "path: /etc/a, mode: 644",
        "path: /etc/a, mode: 010000",
        "path: /etc/a, mode: -1",
        "path: /etc/a, mode: '0644'",
        "path: /etc/a, user: {id: -1}, group: {id: 4294967295}",
        "path: /etc/a, user: {name: ''}, group: {id: 1, name: a}",
        "path: /etc/a, user: {name: '../x'}",
        "mode: 0644",
    ]
    .into_iter()
    .map(|file| {
        error(&[ignition_config(
            "a",
            &format!("storage: {{files: [{{{file}}}]}}"),
        )])
    })
    .collect();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn other_storage() {
    let found: Vec<String> = [
        "directories: [{path: /etc/a, overwrite: true}, {path: /etc/a}]",
        "links: [{path: /etc/a, target: ''}, {path: /etc/b, target: /etc/c, hard: true}]",
        "disks: [{device: /dev/vda}]",
        "luks: [{name: a}]",
        "fils: []",
        "files: {}",
        "files: [x, null]",
    ]
    .into_iter()
    .map(|storage| error(&[ignition_config("a", &format!("storage: {{{storage}}}"))]))
    .collect();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn units() {
    let found: Vec<String> = [
        "name: ../../evil.service",
        "name: a/b.service",
        "name: .service",
        "enabled: true",
        "name: a.service, enable: true",
        "name: a.service, enabled: 'true'",
        "name: a.service, enabled: true, mask: true",
        r#"name: a.service, contents: "ExecStart=/bin/true\n""#,
        "name: a.service, dropins: [{name: ../../../etc/evil.conf}, {name: a.txt}]",
        "name: a.service, dropins: [{name: a.conf, contents: 'Environment=a=b'}]",
        "name: a.service}, {name: a.service",
    ]
    .into_iter()
    .map(|unit| {
        error(&[ignition_config(
            "a",
            &format!("systemd: {{units: [{{{unit}}}]}}"),
        )])
    })
    .collect();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn users() {
    let found: Vec<String> = [
        "users: [{name: admin}]",
        "users: [{name: core, sshAuthorizedKeys: [not a key]}]",
        "users: [{name: core, sshAuthorizedKeys: not a list}]",
        "users: [{name: core, groups: [wheel], homeDir: /home/core}]",
        "users: [{name: core, passwordHash: secret}]",
        "users: [{name: core, passwordHash: '$6$a:0:0'}]",
        "users: [{name: core}, {name: core}]",
        "groups: [{name: wheel}]",
    ]
    .into_iter()
    .map(|passwd| error(&[ignition_config("a", &format!("passwd: {{{passwd}}}"))]))
    .collect();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn whole_configs() {
    let found: Vec<String> = [
        "{}",
        "{ignition: {}}",
        "{ignition: {version: 2.2.0}}",
        "{ignition: {version: 03.2.0}}",
        "{ignition: {version: 3.6.0-experimental}}",
        "{ignition: {version: 3.4}}",
        "{ignition: {version: 3.4.0, config: {merge: [{source: 'https://example.com'}]}}}",
        "{ignition: {version: 3.3.0}, kernelArguments: {shouldExist: [nosmt]}}",
        "{ignition: {version: 3.4.0}, sytemd: {}}",
    ]
    .into_iter()
    .map(|body| error(&[config("a", "worker", &format!("config: {body}"))]))
    .collect();
    insta::assert_snapshot!(found.join("\n"));
}

/// Sections that say nothing are what exported configs are full of.
#[test]
fn empty_sections_pass() {
    let body = "{ignition: {version: 3.5.0, config: {replace: {verification: {}}}, proxy: {}, security: {tls: {}}, timeouts: {}}, kernelArguments: {}, passwd: {groups: [], users: []}, storage: {disks: [], luks: null}, systemd: {}}";
    rendered(&[config("a", "worker", &format!("config: {body}"))]).unwrap();
}

#[test]
fn all_problems_are_told_at_once() {
    let message = error(&[
        ignition_config("a", "storage: {files: [{path: a}, {path: b}]}"),
        ignition_config("b", "systemd: {units: [{name: c}]}"),
        ignition_config(
            "c",
            "storage: {files: [{path: /etc/fine, contents: {source: 'data:,'}}]}",
        ),
    ]);
    assert_eq!(message.lines().count(), 3, "{message}");
}
