#![allow(clippy::unwrap_used)]

use super::*;

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn ours(body: &str) -> String {
    format!("apiVersion: machineconfiguration.openshift.io/v1\n{body}")
}

#[test]
fn several_objects() {
    let text = r"
apiVersion: machineconfiguration.openshift.io/v1
kind: MachineConfigPool
metadata:
  name: worker
spec:
  maxUnavailable: 10%
  machineConfigSelector:
    matchExpressions:
      - {key: machineconfiguration.openshift.io/role, operator: In, values: [worker]}
---
# nothing here
---
apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Secret
    metadata: {name: pull}
    anything: {goes: here}
  - apiVersion: machineconfiguration.openshift.io/v1
    kind: MachineConfig
    metadata: {name: 99-a}
    spec:
      kernelArguments: null
      config: {ignition: {version: 3.4.0}, storage: {files: [{path: /etc/a, mode: 0644}]}}
";
    let objects = parse(text).unwrap();
    let [
        Object::MachineConfigPool(pool),
        Object::Other(secret),
        Object::MachineConfig(config),
    ] = objects.as_slice()
    else {
        panic!("{objects:?}");
    };
    assert_eq!(pool.metadata.name.as_deref(), Some("worker"));
    assert_eq!(secret["kind"], "Secret");
    let mode = config
        .spec
        .config
        .as_ref()
        .unwrap()
        .pointer("/storage/files/0/mode");
    assert_eq!(mode.and_then(Value::as_u64), Some(0o644));
}

#[test]
fn scalars_are_read_as_kubectl_does() {
    for (text, expected) in [("0644", 420), ("420", 420), ("0x1a4", 420), ("0o644", 420)] {
        let manifest = ours(&format!(
            "kind: MachineConfig\nmetadata: {{name: a}}\nspec: {{config: {{mode: {text}}}}}"
        ));
        let objects = parse(&manifest).unwrap();
        let Object::MachineConfig(config) = &objects[0] else {
            panic!("{objects:?}");
        };
        assert_eq!(
            config.spec.config.as_ref().unwrap()["mode"],
            expected,
            "{text}"
        );
    }
    let fips = ours("kind: MachineConfig\nmetadata: {name: a}\nspec: {fips: yes}");
    assert!(matches!(&parse(&fips).unwrap()[0], Object::MachineConfig(config) if config.spec.fips));
}

#[test]
fn unknown_and_wrong_fields() {
    let found = [
        ours("kind: MachineConfig\nmetadata: {name: a, annotation: {x: y}}\nspec: {kernelArgs: [x], kernelArguments: [y]}"),
        ours("kind: MachineConfig\nmetadata: {name: a, labels: {x: true}}\nspec: {kernelArguments: [y, on], fips: 1}"),
        ours("kind: MachineConfigPool\nmetadata: {name: a}\nspec: {nodeSelector: {matchLabel: {}}, Paused: true, maxUnavailable: 1.5}"),
        ours("kind: MachineOSConfig\nmetadata: {name: a}\nspec: {imageBuilder: {imageBuilderType: job}, machineConfigPool: {name: ''}}"),
        ours("kind: MachineOSConfig\nmetadata: {name: a}\nspec: {imageBuilder: {imageBuilderType: Job}, machineConfigPool: {name: b}, renderedImagePushSpec: quay.io/os/image}"),
        ours("kind: MachineOsConfig\nmetadata: {name: a}"),
        ours("kind: MachineConfig\nmetadata: {name: a}\nspec: []\nextra: 1"),
        "apiVersion: machineconfiguration.openshift.io/v1beta1\nkind: MachineOSConfig\nmetadata: {name: a}".into(),
        "kind: Secret\nmetadata: {}".into(),
        "- a\n- b".into(),
    ]
    .map(|text| refused(&text));
    insta::assert_snapshot!(found.join("\n"), @r#"
    MachineConfig `a`: `metadata.annotation`: unknown field; did you mean `annotations`?
    MachineConfig `a`: `spec.kernelArgs`: unknown field; did you mean `kernelArguments`?
    MachineConfig `a`: `spec.kernelArguments[0]`: expected string, found `true`; put it between quotes
    MachineConfig `a`: `metadata.labels.x`: expected a string, found `true`; put it between quotes
    MachineConfig `a`: `spec.fips`: expected boolean, found `1`
    MachineConfig `a`: `spec.kernelArguments[0]`: expected string, found `true`; put it between quotes
    MachineConfig `a`: `spec.kernelArguments[1]`: expected string, found `true`; put it between quotes
    MachineConfigPool `a`: `spec.Paused`: unknown field; did you mean `paused`?
    MachineConfigPool `a`: `spec.maxUnavailable`: expected a number or a text such as `10%`, found `1.5`
    MachineConfigPool `a`: `spec.nodeSelector.matchLabel`: unknown field; did you mean `matchLabels`?
    MachineOSConfig `a`: `spec.imageBuilder.imageBuilderType`: expected one of `Job`, found `"job"`; did you mean `Job`?
    MachineOSConfig `a`: `spec.machineConfigPool.name`: expected at least 1 characters, found 0
    MachineOSConfig `a`: `spec.renderedImagePushSpec`: required, found nothing
    MachineOSConfig `a`: `spec.renderedImagePushSpec`: expected `quay.io/os/image:<tag>`, found `quay.io/os/image`
    MachineOSConfig `a`: `metadata.name`: expected `b`, the name of the pool, which has one MachineOSConfig at most
    MachineOsConfig `a`: `kind`: unknown kind `MachineOsConfig` of `machineconfiguration.openshift.io`; did you mean `MachineOSConfig`?
    MachineConfig `a`: `extra`: unknown field
    MachineConfig `a`: `spec`: expected object, found `[]`
    MachineOSConfig `a`: `apiVersion`: expected `machineconfiguration.openshift.io/v1`, found `machineconfiguration.openshift.io/v1beta1`
    Secret in document 1: `apiVersion`: expected a text, found nothing
    Secret in document 1: `metadata.name`: expected a text, found nothing
    document 1: `apiVersion`: expected a text, found nothing
    document 1: `kind`: expected a text, found nothing
    document 1: `metadata.name`: expected a text, found nothing
    "#);
}

#[test]
fn syntax() {
    assert!(
        refused("a: 1\na: 2\n").contains("duplicate"),
        "{}",
        refused("a: 1\na: 2\n")
    );
    assert!(refused("a: [").contains("line 1"), "{}", refused("a: ["));
    let deep = format!("a: {}{}", "[".repeat(1000), "]".repeat(1000));
    assert!(matches!(parse(&deep), Err(ManifestError::Syntax(_))));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    assert!(matches!(parse(bomb), Err(ManifestError::Syntax(_))));
    assert_eq!(parse("").unwrap(), []);
}
