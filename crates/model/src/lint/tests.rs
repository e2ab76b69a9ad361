#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What a rule says about some manifests: places, and all messages.
fn told(id: &str, manifests: &str) -> Vec<String> {
    let found = lint(&[manifests]).findings.into_iter();
    found
        .filter(|finding| finding.id == id)
        .map(|finding| finding.at.to_string())
        .collect()
}

fn of_ours(kind: &str, rest: &str) -> String {
    format!("apiVersion: machineconfiguration.openshift.io/v1\nkind: {kind}\n{rest}\n---\n")
}

/// A MachineConfig of pool `worker`; what follows `spec.config` begins in line 9.
fn config(rest: &str) -> String {
    of_ours(
        "MachineConfig",
        &format!(
            "metadata:\n  name: 99-a\n  labels: {{machineconfiguration.openshift.io/role: worker}}\nspec:\n  config:\n    ignition: {{version: 3.4.0}}\n{rest}"
        ),
    )
}

/// One with a file: path in line 11, mode in line 12, contents in line 14.
fn file(path: &str, mode: &str, text: &str) -> String {
    let text = text.replace('%', "%25").replace('\n', "%0A");
    config(&format!(
        "    storage:\n      files:\n      - path: {path}\n        mode: {mode}\n        contents:\n          source: \"data:,{text}\""
    ))
}

/// One with a unit that is enabled: name in line 11, its text from line 14.
fn unit(name: &str, text: &str) -> String {
    let contents = match text {
        "" => String::new(),
        text => format!(
            "\n        contents: |\n          {}",
            text.replace('\n', "\n          ")
        ),
    };
    config(&format!(
        "    systemd:\n      units:\n      - name: {name}\n        enabled: true{contents}"
    ))
}

const POOL: &str = "metadata: {name: worker}\nspec:\n  machineConfigSelector: {matchLabels: {machineconfiguration.openshift.io/role: worker}}\n  nodeSelector: {matchLabels: {node-role.kubernetes.io/worker: ''}}";

fn pool() -> String {
    of_ours("MachineConfigPool", POOL)
}

/// A MachineOSConfig of pool `worker`, of 12 lines; its Containerfile is in line 8.
fn image(containerfile: &str) -> String {
    of_ours(
        "MachineOSConfig",
        &format!(
            "metadata: {{name: worker}}\nspec:\n  machineConfigPool: {{name: worker}}\n  imageBuilder: {{imageBuilderType: Job}}\n  containerFile:\n  - content: {containerfile:?}\n  renderedImagePushSpec: r.example/os/worker:latest"
        ),
    )
}

fn sssd(text: &str) -> String {
    file("/etc/sssd/sssd.conf", "0600", text)
}

/// A file that takes its content from a Secret.
fn from_secret(from: &str) -> String {
    sssd("").replace("data:,", &format!("secret:{from}"))
}

fn secret(label: &str, key: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n  namespace: openshift-machine-config-operator\n  labels: {{caprock.dev/node-files: \"{label}\"}}\nstringData: {{{key}: x}}\n---\n"
    )
}

fn pod(mount: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  - name: c\n    volumeMounts:\n    - name: h\n      mountPath: /h\n{mount}  volumes:\n  - {{name: h, hostPath: {{path: /mnt/home/dale}}}}\n---\n"
    )
}

/// A rule; manifests that break it, with the place; manifests that are near to that and do not.
type Case = (&'static str, Vec<(String, &'static str)>, Vec<String>);

fn automount() -> Vec<Case> {
    let master = |text: &str| file("/etc/auto.master", "0644", text);
    let dropped =
        |name: &str, text: &str| file(&format!("/etc/auto.master.d/{name}"), "0644", text);
    let asks = sssd("[sssd]\nservices = nss, autofs\n");
    let together = |config: &str, containerfile: &str| image(containerfile) + &pool() + config;
    vec![
        (
            "map-not-read",
            vec![(dropped("auto.home", "/var/mnt/h m\n"), "11:9")],
            vec![
                dropped("home.autofs", "/var/mnt/h m\n"),
                file("/etc/auto.home", "0644", ""),
            ],
        ),
        (
            "mount-below-link",
            vec![
                (master("# ours\n/mnt/home auto.home\n"), "14:11"),
                (dropped("x.autofs", "/srv/x auto.x\n"), "14:11"),
                (master("/mnt auto.all\n"), "14:11"),
                (
                    unit(
                        "mnt-data.mount",
                        "[Mount]\nWhere=/mnt/data\n[Install]\nWantedBy=x",
                    ),
                    "15:11",
                ),
            ],
            vec![
                master("/var/mnt/home auto.home\n+auto.master\n/- auto.direct\n"),
                master("# /mnt/home auto.home\n"),
                master("/var/mnt/x auto.x\n/mnthome auto.y\n"),
                dropped("x", "/srv/x auto.x\n"),
                unit("var-mnt-data.mount", "[Mount]\nWhere=/var/mnt/data\n"),
            ],
        ),
        (
            "hides-home",
            vec![
                (master("/home auto.home"), "14:11"),
                (master("/var/home/ auto.home"), "14:11"),
            ],
            vec![
                master("/var/mnt/home auto.home"),
                master("/var/homes auto.home"),
            ],
        ),
        (
            "no-autofs-responder",
            vec![
                (
                    together(&asks, "FROM configs\nRUN dnf install -y autofs"),
                    "8:5",
                ),
                (
                    together(&asks, "FROM configs\nRUN apt-get install -y autofs"),
                    "8:5",
                ),
                (
                    together(
                        &sssd("[domain/a]\nautofs_provider = ldap"),
                        "FROM configs\nRUN yum install -y autofs",
                    ),
                    "8:5",
                ),
            ],
            vec![
                together(
                    &asks,
                    "FROM configs\nRUN dnf install -y autofs libsss_autofs",
                ),
                together(
                    &asks,
                    "FROM configs\nRUN apt-get install -y autofs sssd-ldap",
                ),
                together(
                    &sssd("[sssd]\nservices = nss"),
                    "FROM configs\nRUN dnf install -y autofs",
                ),
                together(&asks, "FROM configs\n# RUN dnf install -y autofs"),
            ],
        ),
        (
            "no-propagation",
            vec![(pod("") + &master("/var/mnt/home auto.home"), "9:7")],
            vec![
                pod("      mountPropagation: HostToContainer\n")
                    + &master("/var/mnt/home auto.home"),
                pod("") + &master("/var/mnt/data auto.data"),
            ],
        ),
    ]
}

fn sssd_and_secrets() -> Vec<Case> {
    let drop_in = |name: &str, text: &str| file(&format!("/etc/sssd/conf.d/{name}"), "0600", text);
    let repository = |text: &str| file("/etc/yum.repos.d/a.repo", "0644", text);
    vec![
        (
            "no-section",
            vec![(
                drop_in("homedir.conf", "# ours\noverride_homedir = /var/home/%u\n"),
                "14:11",
            )],
            vec![drop_in(
                "homedir.conf",
                "[domain/a]\noverride_homedir = /x\n",
            )],
        ),
        (
            "drop-in-not-read",
            vec![
                (drop_in("homedir", "[sssd]\n"), "11:9"),
                (file("/etc/sysctl.d/a", "0644", "a=1"), "11:9"),
            ],
            vec![
                drop_in("homedir.conf", "[sssd]\n"),
                file("/etc/sysctl.d/a.conf", "0644", "a=1"),
            ],
        ),
        (
            "sssd-mode",
            vec![
                (file("/etc/sssd/sssd.conf", "0644", "[sssd]"), "12:9"),
                (file("/etc/sssd/conf.d/a.conf", "0640", "[sssd]"), "12:9"),
            ],
            vec![
                sssd("[sssd]"),
                file("/etc/sssd/sssd.conf", "0400", "[sssd]"),
                file("/etc/sssd/ca.crt", "0644", "x"),
            ],
        ),
        (
            "plain-ldap",
            vec![(
                sssd("[domain/a]\nldap_uri = ldaps://b, ldap://a\n"),
                "14:11",
            )],
            vec![
                sssd("[domain/a]\nldap_uri = ldaps://a\n"),
                sssd("[domain/a]\nldap_uri = ldap://a\nldap_id_use_start_tls = True\n"),
                sssd("[domain/a]\nldap_uri = ldap://a\n")
                    + &drop_in("tls.conf", "[domain/a]\nldap_id_use_start_tls = true\n"),
            ],
        ),
        (
            "unverified-ldap",
            vec![(sssd("[domain/a]\nldap_tls_reqcert = never\n"), "14:11")],
            vec![sssd("[domain/a]\nldap_tls_reqcert = demand\n")],
        ),
        (
            "password-in-image-input",
            vec![
                (
                    repository("[a]\nbaseurl=https://me:s3cret@r.example/\n"),
                    "14:11",
                ),
                (repository("[a]\nusername=me\npassword=s3cret\n"), "14:11"),
            ],
            vec![
                repository("[a]\nbaseurl=https://r.example/\nsslclientkey=/etc/pki/a.key\n"),
                file(
                    "/etc/apt/auth.conf.d/a.conf",
                    "0600",
                    "machine r.example login me password s3cret",
                ),
            ],
        ),
        (
            "readable-secret",
            vec![
                (
                    file("/etc/app.conf", "0644", "[a]\ndb_password = s3cret\n"),
                    "12:9",
                ),
                (
                    file("/etc/a.pem", "0644", "-----BEGIN PRIVATE KEY-----\n"),
                    "12:9",
                ),
            ],
            vec![
                file("/etc/app.conf", "0600", "db_password = s3cret\n"),
                file(
                    "/etc/app.conf",
                    "0644",
                    "db_password_file = /etc/p\nPASSWORD=$X\n",
                ),
            ],
        ),
        (
            "password-in-machineconfig",
            vec![(sssd("[domain/a]\nldap_default_authtok = s3cret\n"), "14:11")],
            vec![
                sssd("[domain/a]\nldap_default_authtok_type = password\n"),
                from_secret("s/bind.conf"),
                repository("[a]\npassword=s3cret\n"),
            ],
        ),
        (
            "secret-not-for-nodes",
            vec![
                (
                    from_secret("s/bind.conf") + &secret("false", "bind.conf"),
                    "14:11",
                ),
                (
                    from_secret("s/bind.conf") + &secret("true", "bind"),
                    "14:11",
                ),
            ],
            vec![
                from_secret("s/bind.conf"),
                from_secret("other/bind.conf") + &secret("false", "bind"),
                from_secret("s/bind.conf") + &secret("true", "bind.conf"),
            ],
        ),
    ]
}

fn objects_and_units() -> Vec<Case> {
    let autofs = unit("autofs.service", "");
    let together = |config: &str, containerfile: &str| image(containerfile) + &pool() + config;
    let unlabelled = of_ours(
        "MachineConfig",
        "metadata:\n  name: a\nspec:\n  kernelArguments: [a]\n  config: {ignition: {version: 3.4.0}}",
    );
    let role = |role: &str| config("").replace("role: worker", &format!("role: {role}"));
    vec![
        (
            "not-yaml",
            vec![
                ("a: [\n".to_owned(), "1:4"),
                ("a: 1\na: 2\n".to_owned(), "2:1"),
            ],
            vec![pool()],
        ),
        (
            "unknown-field",
            vec![
                (
                    of_ours(
                        "MachineConfigPool",
                        &POOL.replace("{name: worker}", "\n  name: worker\n  annotation: {a: b}"),
                    ),
                    "5:3",
                ),
                (config("    storage:\n      fils: []"), "10:7"),
                (
                    "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n  label: {}\n".to_owned(),
                    "5:3",
                ),
            ],
            vec![
                pool(),
                "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nanything: 1\n".to_owned(),
            ],
        ),
        (
            "invalid-object",
            vec![
                (file("etc/a", "0644", "x"), "11:9"),
                (
                    of_ours("MachineConfigPool", &format!("{POOL}\n  paused: 1")),
                    "7:3",
                ),
            ],
            vec![file("/etc/a", "0644", "x"), pool()],
        ),
        (
            "not-from-configs",
            vec![(image("FROM quay.io/a:1\nRUN true"), "8:5")],
            vec![
                image("FROM a:1 AS b\nFROM configs AS final"),
                image("from Configs"),
            ],
        ),
        (
            "unselected-config",
            vec![(unlabelled, "3:1"), (pool() + &role("wroker"), "12:12")],
            vec![
                pool() + &role("worker"),
                pool() + &role("infra"),
                role("infra"),
            ],
        ),
        (
            "unit-from-nowhere",
            vec![(
                together(&autofs, "FROM configs\nRUN dnf install -y htop"),
                "28:9",
            )],
            vec![
                together(&autofs, "FROM configs\nRUN dnf install -y autofs"),
                together(&autofs, "FROM configs\nCOPY a /usr/lib/systemd/system/"),
                together(&unit("sshd.service", ""), "FROM configs"),
                together(
                    &unit("libvirtd.service", ""),
                    "FROM configs\nRUN dnf install -y libvirt-daemon",
                ),
                together(&unit("a.service", "[Install]\nWantedBy=x"), "FROM configs"),
                pool() + &autofs,
            ],
        ),
        (
            "nothing-starts-it",
            vec![(unit("a.service", "[Service]\nExecStart=x"), "12:9")],
            vec![
                unit("a.service", "[Service]\nExecStart=x\n[Install]\nWantedBy=y"),
                autofs,
            ],
        ),
        (
            "setsebool-persistent",
            vec![
                (
                    unit(
                        "a.service",
                        "[Service]\nExecStart=/usr/sbin/setsebool -P a 1\n[Install]\nWantedBy=y",
                    ),
                    "15:11",
                ),
                (
                    unit(
                        "a.service",
                        "[Service]\nExecStart=/bin/sh -c 'x || setsebool -P a 1'",
                    ),
                    "15:11",
                ),
            ],
            vec![unit(
                "a.service",
                "[Service]\nExecStart=/usr/sbin/setsebool a 1",
            )],
        ),
    ]
}

#[test]
fn every_rule_is_tried() {
    let table: Vec<Case> = [automount(), sssd_and_secrets(), objects_and_units()]
        .into_iter()
        .flatten()
        .collect();
    let tried: BTreeSet<&str> = table.iter().map(|(id, ..)| *id).collect();
    let known: BTreeSet<&str> = rules().map(|rule| rule.id).collect();
    assert_eq!(tried, known);
    assert_eq!(rules().count(), known.len(), "an id is used twice");
    let mut wrong = Vec::new();
    for (id, bad, good) in table {
        let bad = bad.into_iter().map(|(text, place)| (text, vec![place]));
        let good = good.into_iter().map(|text| (text, Vec::new()));
        for (manifests, expected) in bad.chain(good) {
            let found = told(id, &manifests);
            if found != expected {
                wrong.push(format!(
                    "{id}: {found:?}, expected {expected:?} in\n{manifests}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn annotations_silence_warnings_but_no_errors() {
    let told = |annotation: &str, path: &str| -> Vec<&str> {
        let text = file(path, "0644", "/home m").replace(
            "  labels:",
            &format!("  annotations: {{caprock.dev/lint-ignore: \"{annotation}\"}}\n  labels:"),
        );
        lint(&[&text])
            .findings
            .iter()
            .map(|finding| finding.id)
            .collect()
    };
    assert_eq!(told("x", "/etc/auto.master"), ["hides-home"]);
    assert_eq!(
        told("x, hides-home", "/etc/auto.master"),
        Vec::<&str>::new()
    );
    assert_eq!(
        told("invalid-object", "etc/auto.master"),
        ["invalid-object"]
    );
}

#[test]
fn no_finding_shows_a_secret() {
    let texts = [
        file("/etc/app.conf", "0644", "password = s3cret"),
        file(
            "/etc/yum.repos.d/a.repo",
            "0644",
            "[a]\nbaseurl=https://me:s3cret@r.example/",
        ),
        file(
            "/etc/sssd/conf.d/a.conf",
            "0644",
            "ldap_default_authtok = s3cret",
        ),
    ];
    for text in texts {
        let found = lint(&[&text]).findings;
        assert!(!found.is_empty());
        assert!(!format!("{found:?}").contains("s3cret"), "{found:?}");
    }
}

#[test]
fn lines_of_containerfiles_have_their_places() {
    let text = image("X").replace("\"X\"", "|\n      FROM configs\n\n      RUN true");
    let [found] = <[Embedded; 1]>::try_from(lint(&["", &text]).containerfiles).unwrap();
    let places: Vec<String> = found.lines.iter().map(ToString::to_string).collect();
    assert_eq!(
        (found.text, places),
        (
            1,
            vec!["9:7".to_owned(), "10:1".to_owned(), "11:7".to_owned()]
        )
    );
    let [quoted] =
        <[Embedded; 1]>::try_from(lint(&[&image("FROM a\nRUN b")]).containerfiles).unwrap();
    assert_eq!(quoted.lines, [Place { line: 8, column: 5 }; 2]);
}

proptest! {
    #[test]
    fn nothing_panics(text in "(apiVersion: machineconfiguration.openshift.io/v1|kind: MachineConfig|metadata:|  name: a|spec:|  config:|\\{|\\}|\\[|- |[a-z:'\"|&*\n ]){0,40}") {
        lint(&[&text]);
    }

    #[test]
    fn odd_files_do_no_harm(path in "/etc/(auto.master|sssd/sssd.conf|yum.repos.d/a.repo)", text in "[a-zA-Z/\\[\\]=:@+ \n-]{0,60}") {
        lint(&[&file(&path, "0644", &text)]);
    }
}
