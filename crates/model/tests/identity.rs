//! Names that are made from content: what nodes are told to run. A change of Caprock that changes one of these would take
//! every node of every pool through an update when the controllers are upgraded, so it must be meant, and told.
#![allow(clippy::unwrap_used)]

use model::api::{ContainerfileArch, MachineConfig, MachineConfigPool, MachineOSConfig};
use model::layering::{self, ImageInputs};
use model::render::{self, Defaults};
use serde_json::{Value, json};

const BASE: &str =
    "quay.io/os/base@sha256:0b9ca241da2f41c03d2106c24ce9dee2370329771d7883508ddfc1d4712fc310";

fn config(name: &str, spec: Value) -> MachineConfig {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"machineconfiguration.openshift.io/role": "worker"}},
        "spec": spec,
    }))
    .unwrap()
}

fn pool() -> MachineConfigPool {
    serde_json::from_value(json!({
        "metadata": {"name": "worker", "uid": "1"},
        "spec": {"machineConfigSelector": {"matchLabels": {"machineconfiguration.openshift.io/role": "worker"}}},
    }))
    .unwrap()
}

fn image() -> MachineOSConfig {
    serde_json::from_value(json!({
        "metadata": {"name": "worker"},
        "spec": {
            "machineConfigPool": {"name": "worker"},
            "imageBuilder": {"imageBuilderType": "Job"},
            "renderedImagePushSpec": "registry.example.com/os/worker:latest",
            "containerFile": [{"content": "FROM configs AS final\nRUN dnf install -y autofs\n"}],
        },
    }))
    .unwrap()
}

/// Every kind of field that is merged, and files that are build inputs beside those that are not.
fn configs() -> Vec<MachineConfig> {
    vec![
        config("00-base", json!({"osImageURL": BASE})),
        config(
            "50-files",
            json!({
                "config": {
                    "ignition": {"version": "3.4.0"},
                    "storage": {"files": [
                        {"path": "/etc/motd", "mode": 420, "contents": {"source": "data:,hello%20world"}},
                        {"path": "/etc/yum.repos.d/extra.repo", "contents": {"source": "data:,%5Bextra%5D%0A"}},
                        {"path": "/etc/app.conf", "contents": {
                            "compression": "gzip",
                            "source": "data:;base64,H4sIAAAAAAAC/8tIzcnJVyjPL8pJAQCFEUoNCwAAAA==",
                        }},
                    ]},
                    "systemd": {"units": [
                        {"name": "autofs.service", "enabled": true},
                        {"name": "app.service", "enabled": true, "contents": "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"},
                    ]},
                    "passwd": {"users": [{"name": "core", "sshAuthorizedKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEqTmNbmEZ9hdqlHbq1bKx6Yp7GPYG3pEDZUm1NCQkCv a"]}]},
                },
                "kernelArguments": ["quiet", "mitigations=auto"],
            }),
        ),
    ]
}

#[test]
fn equal_inputs_have_the_names_that_they_always_had() {
    let rendered = render::render(&pool(), &configs(), &Defaults::default())
        .map_err(|error| error.to_string())
        .unwrap();
    let inputs = ImageInputs::new(
        &rendered.config,
        &image(),
        &BASE.parse().unwrap(),
        ContainerfileArch::Amd64,
    )
    .unwrap();
    let build = layering::build_name(&image(), &inputs);
    assert_eq!(
        [rendered.name(), &build],
        [
            "rendered-worker-01223890d23d919d7645ad29e54b6e6c",
            "worker-6e4311de2eb52f951b555064e876e00c"
        ]
    );
}
