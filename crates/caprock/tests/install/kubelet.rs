//! Stands in for what a server without machines lacks: runs each replica of a workload as a process, from the arguments in
//! the object and with a token of its account, and says in the object's status what runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::tools::{caprock, command, json_of, text};

const NAMESPACE: &str = "caprock-system";

pub(crate) struct Kubelet {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and shows as a test that waits in vain.
            drop(thread.join());
        }
    }
}

impl Kubelet {
    pub(crate) fn start(kubectl: &Path, kubeconfig: &Path, scratch: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut node = Node {
            kubectl: kubectl.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            scratch: scratch.to_owned(),
            pods: BTreeMap::new(),
        };
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                node.turn();
                std::thread::sleep(Duration::from_millis(200));
            }
            node.pods.clear();
        });
        Kubelet {
            stop,
            thread: Some(thread),
        }
    }
}

struct Node {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    scratch: PathBuf,
    pods: BTreeMap<String, Pod>,
}

/// A process for a pod, ended when dropped.
struct Pod {
    /// What it was made from; another template makes another pod.
    template: Value,
    process: Child,
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Node {
    fn turn(&mut self) {
        let Some(list) = self.json("get deployments,statefulsets,daemonsets,jobs") else {
            return;
        };
        let mut wanted = BTreeMap::new();
        for object in list["items"].as_array().unwrap() {
            for number in 0..replicas(object) {
                let name = format!("{}-{number}", object["metadata"]["name"].as_str().unwrap());
                wanted.insert(name, object.clone());
            }
        }
        self.pods.retain(|name, pod| {
            wanted
                .get(name)
                .is_some_and(|object| object["spec"]["template"] == pod.template)
        });
        for (name, object) in &wanted {
            if !self.pods.contains_key(name)
                && let Some(pod) = self.run(name, object)
            {
                self.pods.insert(name.clone(), pod);
            }
        }
        for object in list["items"].as_array().unwrap() {
            self.tell(object);
        }
    }

    fn json(&self, line: &str) -> Option<Value> {
        let line = format!("-n {NAMESPACE} {line}");
        json_of(&self.kubectl, &self.kubeconfig, &line)
    }

    /// Starts a pod's process; not yet, while its account is not there.
    fn run(&self, name: &str, object: &Value) -> Option<Pod> {
        let template = object["spec"]["template"].clone();
        let spec = &template["spec"];
        let account = spec["serviceAccountName"].as_str().unwrap();
        let token = self.json(&format!("create token {account} --duration 1h"))?;
        let mut kubeconfig: Value =
            serde_json::from_str(&std::fs::read_to_string(&self.kubeconfig).unwrap()).unwrap();
        for user in kubeconfig["users"].as_array_mut().unwrap() {
            user["user"] = json!({"token": token["status"]["token"]});
        }
        let path = self.scratch.join(format!("{name}.kubeconfig"));
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        let log = std::fs::File::create(self.scratch.join(format!("{name}.log"))).unwrap();
        let volume = self.scratch.join(name);
        let args = spec["containers"][0]["args"].as_array().unwrap();
        let process = Command::new(caprock())
            .args(args.iter().map(|arg| here(arg.as_str().unwrap(), &volume)))
            .env("KUBECONFIG", path)
            // In a pod it is the host's name.
            .env("CAPROCK_IDENTITY", name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Some(Pod { template, process })
    }

    fn tell(&mut self, object: &Value) {
        let kind = object["kind"].as_str().unwrap();
        let name = object["metadata"]["name"].as_str().unwrap();
        let mut running = 0;
        let mut ended = None;
        for number in 0..replicas(object) {
            if let Some(pod) = self.pods.get_mut(&format!("{name}-{number}")) {
                match pod.process.try_wait().unwrap() {
                    None => running += 1,
                    Some(status) => ended = Some(status.success()),
                }
            }
        }
        let generation = &object["metadata"]["generation"];
        let status = match kind {
            "DaemonSet" => json!({"observedGeneration": generation, "desiredNumberScheduled": 0,
                "currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}),
            "Job" => match ended {
                None => return,
                Some(true) => {
                    json!({"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]})
                }
                Some(false) => {
                    json!({"failed": 1, "conditions": [{"type": "Failed", "status": "True"}]})
                }
            },
            _ => {
                let all = running == replicas(object);
                json!({"observedGeneration": generation, "replicas": running, "readyReplicas": running,
                    "updatedReplicas": running, "availableReplicas": running, "currentReplicas": running,
                    "currentRevision": "one", "updateRevision": "one",
                    "conditions": [{"type": "Available", "status": if all { "True" } else { "False" }}]})
            }
        };
        if contains(&object["status"], &status) {
            return;
        }
        let patch = json!({"status": status}).to_string();
        let mut patched = command(
            &self.kubectl,
            &self.kubeconfig,
            &format!("-n {NAMESPACE} patch {kind} {name} --subresource=status --type=merge -p"),
        );
        let output = patched.arg(patch).output().unwrap();
        // It may have been removed meanwhile.
        let told = text(&output.stderr);
        assert!(
            output.status.success() || told.contains("not found"),
            "{told}"
        );
    }
}

fn contains(status: &Value, wanted: &Value) -> bool {
    let wanted = wanted.as_object().unwrap();
    wanted.iter().all(|(key, value)| status[key] == *value)
}

/// How many processes an object is. No test has a host that an agent could work in.
fn replicas(object: &Value) -> i64 {
    match object["kind"].as_str() {
        Some("DaemonSet") => 0,
        Some("Job") => 1,
        _ => object["spec"]["replicas"].as_i64().unwrap_or(1),
    }
}

/// An argument with the pod's ports and volumes as they are on this machine, which several pods share.
fn here(arg: &str, volume: &Path) -> String {
    match arg.split_once('=') {
        Some((flag @ ("--metrics-listen" | "--listen"), _)) => format!("{flag}=127.0.0.1:0"),
        Some((flag @ ("--cache-dir" | "--data-dir"), _)) => format!("{flag}={}", volume.display()),
        _ => arg.to_owned(),
    }
}
