//! State as agents of 0.1.0 write it: trials, reboots and most records were taken from one, the rest is made after its
//! formats. This agent reads all of it, and writes the same, byte for byte, where nothing asks for more. So a node's agent can
//! be exchanged for a newer one, or for the older one again, in the middle of an update.

use super::*;

const BASE: &str = "f3645bb95ee63f9de2aaae7b97bcfa5383d9ca1a919cbe46de78a71648d95125";

fn deployment(serial: u32) -> DeploymentId {
    format!("{BASE}.{serial}").parse().unwrap()
}

/// Writes what an agent of 0.1.0 left, before files came from Secrets.
fn left(state: &State, path: &str, text: &str) {
    let path = state.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn same(state: &State, path: &str, text: &str) {
    let found = std::fs::read_to_string(state.path().join(path)).unwrap();
    assert_eq!(found, text, "{path}");
}

#[test]
fn records_stay_as_they_were() {
    let (_guard, state) = state();
    for text in [
        r#"{"config":"rendered-worker-76c9","image":null,"verified":null,"replaced":null}"#,
        r#"{"config":"rendered-worker-76c9","image":"r.example/os@sha256:0cb0","verified":"18ea90c30a5ca5f9-1c","replaced":null}"#,
        r#"{"config":"rendered-worker-6b79","image":null,"verified":null,"replaced":{"config":"rendered-worker-385d","image":null,"verified":"18ea90cb07b04118-31","replaced":null}}"#,
    ] {
        let path = format!("deployments/{BASE}.0.json");
        left(&state, &path, text);
        let record = state.record(&deployment(0)).unwrap().unwrap();
        state.set_record(&deployment(0), &record).unwrap();
        same(&state, &path, text);
    }
}

#[test]
fn a_started_step_stays_as_it_was() {
    let (_guard, state) = state();
    let deploy = format!(
        r#"{{"step":"deploy","config":"rendered-worker-76c9","image":null,"from":"rendered-worker-385d","digest":"sha256:0cb00d7b91fa6f22c32915579c124de7dd6aa47bca2e38bbaededca32b61ea55","before":["{BASE}.0"]}}"#
    );
    for text in [
        deploy.as_str(),
        r#"{"step":"reboot","config":"rendered-worker-76c9","image":null,"boot":"18ea90c30a5ca5f9-1c"}"#,
        r#"{"step":"apply","config":"rendered-worker-6b79","image":null,"boot":"18ea90c30a5ca5f9-1c","units":[{"unit":"sshd.service","running":true,"job":"reload"}]}"#,
    ] {
        left(&state, "journal.json", text);
        let journal = state.journal().unwrap().unwrap();
        state.begin(&journal).unwrap();
        same(&state, "journal.json", text);
    }
}

#[test]
fn a_staged_deployment_stays_as_it_was() {
    let (_guard, state) = state();
    let path = format!("staged/{BASE}.1.json");
    let text = r#"{"config":"rendered-worker-76c9","image":null,"from":"rendered-worker-385d","os":"debian"}"#;
    left(&state, &path, text);
    let (id, staged) = state.all_staged().unwrap().pop().unwrap();
    assert_eq!(id, deployment(1));
    state.set_staged(&id, &staged).unwrap();
    same(&state, &path, text);
}

#[test]
fn a_trial_and_what_was_taken_back_stay_as_they_were() {
    let (_guard, state) = state();
    let text = format!("deployment={BASE}.1\nprevious={BASE}.0\nboots=1\nlimit=3\ndeadline=1200\n");
    left(&state, "trial", &text);
    state.set_trial(&state.trial().unwrap().unwrap()).unwrap();
    same(&state, "trial", &text);
    let text =
        r#"{"config":"rendered-worker-76c9","image":null,"reason":"unit `autofs.service` failed"}"#;
    left(&state, "failure.json", text);
    let failure = state.failure().unwrap().unwrap();
    state.set_failure(Some(&failure)).unwrap();
    same(&state, "failure.json", text);
}

#[test]
fn what_deployments_share_stays_as_it_was() {
    let (_guard, state) = state();
    for text in [
        r#"{"config":"rendered-worker-385d","towards":null}"#,
        r#"{"config":"rendered-worker-385d","towards":"rendered-worker-6b79"}"#,
    ] {
        left(&state, "shared.json", text);
        state.set_shared(&state.shared().unwrap()).unwrap();
        same(&state, "shared.json", text);
    }
    let text = r#"{"paths":{"/etc/app":{"was":"directory","access":{"mode":493,"uid":0,"gid":0},"attributes":{}},"/etc/motd":{"was":"image"},"/etc/new":{"was":"nothing"}},"units":{"autofs.service":"image"},"core":null}"#;
    left(&state, "originals.json", text);
    state.set_originals(&state.originals().unwrap()).unwrap();
    same(&state, "originals.json", text);
}

#[test]
fn rendered_configs_stay_as_they_were() {
    let (_guard, state) = state();
    let text = r#"{"osImageURL":"r.example/os@sha256:0cb00d7b91fa6f22c32915579c124de7dd6aa47bca2e38bbaededca32b61ea55","config":{"ignition":{"version":"3.5.0"},"storage":{"files":[{"contents":{"source":"data:;base64,Zmlyc3Q="},"mode":420,"overwrite":true,"path":"/etc/motd"}]}},"kernelArguments":["skew=1"],"kernelType":"default"}"#;
    left(&state, "configs/rendered-worker-76c9.json", text);
    let config = state.config("rendered-worker-76c9").unwrap().unwrap();
    state.keep_config("rendered-worker-76c9", &config).unwrap();
    same(&state, "configs/rendered-worker-76c9.json", text);
}

#[test]
fn reboots_are_told_on() {
    let (_guard, state) = state();
    let text = format!(
        r#"{{"boot":"18ea90c511c81362-1c","reboots":[{{"at":"2026-11-22T20:03:08.139228009Z","deployment":"{BASE}.1","cause":"update","target":"`rendered-worker-76c9`","chain":["kernelArguments +quiet (MachineConfig `50-quiet`)","MachineConfigPool `worker`"],"why":"kernelArguments"}}]}}"#
    );
    left(&state, "reboots.json", &text);
    let next = r#"{"boot":"18ea90c511c81362-1c","cause":{"cause":"update","target":"`rendered-worker-385d`","chain":["kernelArguments -quiet"],"why":"kernelArguments"}}"#;
    left(&state, "next-reboot.json", next);
    state
        .note_boot(
            "18ea90cb07b04118-31",
            jiff::Timestamp::UNIX_EPOCH,
            &deployment(2),
            model::ledger::Cause::NotAsked,
        )
        .unwrap();
    let told: Vec<String> = state
        .reboots()
        .unwrap()
        .iter()
        .map(|reboot| reboot.cause.to_string())
        .collect();
    assert_eq!(
        told,
        [
            "update to `rendered-worker-76c9` ← kernelArguments +quiet (MachineConfig `50-quiet`) ← MachineConfigPool `worker`",
            "update to `rendered-worker-385d` ← kernelArguments -quiet",
        ]
    );
}

/// What a newer agent adds is left out, and what it alone knows is told with what to do about it.
#[test]
fn what_a_newer_agent_left_is_read_or_told() {
    let (_guard, state) = state();
    left(
        &state,
        &format!("deployments/{BASE}.0.json"),
        r#"{"config":"rendered-worker-76c9","image":null,"verified":null,"replaced":null,"later":{"a":1}}"#,
    );
    let record = state.record(&deployment(0)).unwrap().unwrap();
    assert_eq!(record.config, "rendered-worker-76c9");
    left(&state, "journal.json", r#"{"step":"later","config":"c"}"#);
    let told = state.journal().unwrap_err().to_string();
    assert!(told.contains("newer agent"), "{told}");
    let spec = serde_json::json!({"config": {"ignition": {"version": "3.5.0"}, "storage": {"files": [
        {"path": "/etc/later", "contents": {"source": "later:a/b"}},
    ]}}});
    left(&state, "configs/later.json", &spec.to_string());
    let target = Target {
        config: "later".to_owned(),
        image: None,
    };
    let told = state.version(&target).unwrap_err().to_string();
    assert!(
        told.contains("`storage.files[0].contents.source`"),
        "{told}"
    );
    assert!(told.ends_with("upgrade it"), "{told}");
}
