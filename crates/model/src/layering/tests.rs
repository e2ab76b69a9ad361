#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

const BASE: &str =
    "quay.io/os/base@sha256:0b9ca241da2f41c03d2106c24ce9dee2370329771d7883508ddfc1d4712fc310";

fn rendered(files: &[(&str, &str)]) -> MachineConfig {
    let files: Vec<Value> = files
        .iter()
        .map(|(path, text)| json!({"path": path, "contents": {"source": format!("data:,{text}")}}))
        .collect();
    let config = json!({"ignition": {"version": "3.5.0"}, "storage": {"files": files}});
    let spec = json!({"config": config});
    MachineConfig::new("rendered-worker-1", serde_json::from_value(spec).unwrap())
}

fn mosc(entries: Value) -> MachineOSConfig {
    let spec = json!({
        "machineConfigPool": {"name": "worker"},
        "imageBuilder": {"imageBuilderType": "Job"},
        "renderedImagePushSpec": "localhost:5000/os/image:latest",
        "containerFile": entries,
    });
    MachineOSConfig::new("worker", serde_json::from_value(spec).unwrap())
}

fn inputs_of(
    rendered: &MachineConfig,
    mosc: &MachineOSConfig,
) -> Result<ImageInputs, LayeringError> {
    ImageInputs::new(
        rendered,
        mosc,
        &BASE.parse().unwrap(),
        ContainerfileArch::Amd64,
    )
}

/// Equal sources are one build, other content another; builds without any keep their names.
#[test]
fn sources_are_part_of_the_identity() {
    use super::sources::{Content, Hidden, Source};
    let plain = inputs_of(&rendered(&[]), &mosc(no_arch("FROM configs"))).unwrap();
    let of = |content: Content| {
        let name = "site".to_owned();
        plain
            .clone()
            .with_sources(vec![Source { name, content }])
            .digest()
    };
    let files = |contents: &str| {
        let file = BuildFile {
            path: "/a".to_owned(),
            mode: 0o644,
            contents: contents.into(),
        };
        Content::Files(vec![file])
    };
    let secret = |version: &str, value: &str| Content::Secret {
        version: version.to_owned(),
        value: Hidden(value.into()),
    };
    assert_eq!(
        plain.clone().with_sources(Vec::new()).digest(),
        plain.digest()
    );
    assert_eq!(of(files("1")), of(files("1")));
    // What a secret holds is in no digest, which anybody could try values against.
    assert_eq!(of(secret("1", "a")), of(secret("1", "b")));
    let image = |text: &str| Content::Image(text.parse().unwrap());
    let all = [
        plain.digest(),
        of(files("1")),
        of(files("2")),
        of(secret("1", "a")),
        of(secret("2", "a")),
        of(image(BASE)),
    ];
    let different: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(different.len(), all.len());
}

fn no_arch(text: &str) -> Value {
    json!([{"content": text}])
}

#[test]
fn generated_containerfile() {
    let rendered = rendered(&[("/etc/apt/sources.list", "deb%20x"), ("/etc/motd", "hi")]);
    let mosc = mosc(no_arch(
        "FROM configs AS final\nRUN apt-get install -y autofs\n",
    ));
    let inputs = inputs_of(&rendered, &mosc).unwrap();
    insta::assert_snapshot!(containerfile(&inputs), @r#"
    FROM quay.io/os/base@sha256:0b9ca241da2f41c03d2106c24ce9dee2370329771d7883508ddfc1d4712fc310 AS configs
    COPY --from=machineconfig / /
    LABEL machineconfigpool="worker"
    LABEL baseOSContainerImage="quay.io/os/base@sha256:0b9ca241da2f41c03d2106c24ce9dee2370329771d7883508ddfc1d4712fc310"
    FROM configs AS final
    RUN apt-get install -y autofs
    "#);
    let paths: Vec<&str> = inputs
        .files()
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(paths, ["/etc/apt/sources.list"]);
}

#[test]
fn only_image_inputs_change_the_build() {
    let text = no_arch("FROM configs AS final");
    let name = |rendered: &MachineConfig, mosc: &MachineOSConfig| {
        build_name(mosc, &inputs_of(rendered, mosc).unwrap())
    };
    let usual = name(&rendered(&[("/etc/motd", "hi")]), &mosc(text.clone()));
    assert!(
        usual.starts_with("worker-") && usual.len() == "worker-".len() + 32,
        "{usual}"
    );

    let mut other_secret = mosc(text.clone());
    other_secret.spec.rendered_image_push_secret = Some(Named::new("other"));
    other_secret.spec.rendered_image_push_spec = "localhost:5000/os/image:other".into();
    let mut other_kargs = rendered(&[]);
    other_kargs.spec.kernel_arguments = vec!["nosmt".into()];
    for same in [
        name(&rendered(&[("/etc/motd", "bye")]), &mosc(text.clone())),
        name(&rendered(&[]), &other_secret),
        name(&other_kargs, &mosc(text.clone())),
    ] {
        assert_eq!(same, usual);
    }

    let mut elsewhere = mosc(text.clone());
    elsewhere.spec.rendered_image_push_spec = "localhost:5000/os/elsewhere:latest".into();
    for other in [
        name(
            &rendered(&[("/etc/apt/sources.list", "x")]),
            &mosc(text.clone()),
        ),
        name(&rendered(&[]), &mosc(no_arch("FROM configs"))),
        name(&rendered(&[]), &elsewhere),
    ] {
        assert_ne!(other, usual);
    }
}

#[test]
fn build_object() {
    let rendered = rendered(&[]);
    let mut mosc = mosc(json!([]));
    mosc.metadata.uid = Some("1-2-3".into());
    let inputs = inputs_of(&rendered, &mosc).unwrap();
    let build = machine_os_build(&mosc, "rendered-worker-1", &inputs).unwrap();
    insta::assert_yaml_snapshot!(build, @r#"
    apiVersion: machineconfiguration.openshift.io/v1
    kind: MachineOSBuild
    metadata:
      labels:
        machineconfiguration.openshift.io/machine-os-config: worker
        machineconfiguration.openshift.io/rendered-machine-config: rendered-worker-1
        machineconfiguration.openshift.io/target-machine-config-pool: worker
      name: worker-18ca03cb829efcc8902db02fad57292f
      ownerReferences:
        - apiVersion: machineconfiguration.openshift.io/v1
          blockOwnerDeletion: true
          controller: true
          kind: MachineOSConfig
          name: worker
          uid: 1-2-3
    spec:
      machineConfig:
        name: rendered-worker-1
      machineOSConfig:
        name: worker
      renderedImagePushSpec: "localhost:5000/os/image:worker-18ca03cb829efcc8902db02fad57292f"
    "#);
}

#[test]
fn entries_by_architecture() {
    let entry = |arch: &str, text: &str| json!({"containerfileArch": arch, "content": text});
    let choose = |entries: Value| {
        inputs_of(&rendered(&[]), &mosc(entries))
            .map(|inputs| inputs.containerfile)
            .map_err(|error| error.to_string())
    };
    assert_eq!(choose(json!([])), Ok(String::new()));
    assert_eq!(
        choose(json!([entry("AMD64", "a"), entry("ARM64", "b")])),
        Ok("a".into())
    );
    assert_eq!(
        choose(json!([entry("NoArch", "a"), entry("ARM64", "b")])),
        Ok("a".into())
    );
    let refused = [
        choose(json!([entry("NoArch", "a"), entry("AMD64", "b")])),
        choose(json!([entry("ARM64", "b")])),
        choose(no_arch(&"x".repeat(MAX_CONTAINERFILE_BYTES + 1))),
    ]
    .map(Result::unwrap_err);
    insta::assert_snapshot!(refused.join("\n"), @r"
    MachineOSConfig `worker`: `spec.containerFile`: more than one entry is for `AMD64`; keep `NoArch` or one entry for each architecture
    MachineOSConfig `worker`: `spec.containerFile`: there is no entry for `AMD64` or `NoArch`
    MachineOSConfig `worker`: `spec.containerFile`: expected at most 65536 bytes, found 65537
    ");
}

#[test]
fn what_cannot_be_built() {
    let usual = mosc(json!([]));
    let mut extensions = rendered(&[]);
    extensions.spec.extensions = vec!["usbguard".into()];
    let mut realtime = rendered(&[]);
    realtime.spec.kernel_type = "realtime".into();
    let mut push = mosc(json!([]));
    push.spec.rendered_image_push_spec = "os:latest".into();
    let tag: PullSpec = "quay.io/os/base:latest".parse().unwrap();
    let mut long = mosc(json!([]));
    long.metadata.name = Some("x".repeat(100));
    let refused = [
        inputs_of(&extensions, &usual).unwrap_err(),
        inputs_of(&realtime, &usual).unwrap_err(),
        inputs_of(&rendered(&[]), &push).unwrap_err(),
        ImageInputs::new(&rendered(&[]), &usual, &tag, ContainerfileArch::Amd64).unwrap_err(),
        push_spec(&long, &inputs_of(&rendered(&[]), &long).unwrap()).unwrap_err(),
    ]
    .map(|error| error.to_string());
    insta::assert_snapshot!(refused.join("\n"), @r"
    MachineConfig `rendered-worker-1`: `spec.extensions`: extension `usbguard` is not installed by the build; install its packages in the MachineOSConfig's Containerfile
    MachineConfig `rendered-worker-1`: `spec.kernelType`: kernel `realtime` is not installed by the build; replace the kernel's packages in the MachineOSConfig's Containerfile
    MachineOSConfig `worker`: `spec.renderedImagePushSpec`: `os:latest` is not a pull spec: expected `host[:port]/path`
    base image `quay.io/os/base:latest` has no digest; resolve its tag first
    MachineOSConfig `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx`: `spec.renderedImagePushSpec`: `localhost:5000/os/image:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-18ca03cb829efcc8902db02fad57292f` is not a pull spec: expected a tag of at most 128 letters, digits and `_.-`
    ");
}

#[test]
fn each_wish_for_a_rebuild_is_another_build() {
    let mosc = mosc(json!([]));
    let name = |wish: Option<&str>| {
        let inputs = inputs_of(&rendered(&[]), &mosc).unwrap();
        let inputs = match wish {
            Some(wish) => inputs.rebuilt(wish),
            None => inputs,
        };
        build_name(&mosc, &inputs)
    };
    let names = [name(None), name(Some("1")), name(Some("2"))];
    assert_eq!(name(Some("1")), names[1]);
    assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2]);
}
