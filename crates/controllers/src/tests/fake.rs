//! A builder, registries and an agent that do what a test tells them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use builder::NamedContext;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use model::condition::BuildReason;
use model::image_check::{Entry, ImageRoot};
use model::keys;
use model::node::annotation;
use oci::ClientConfig;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::world::eventually;
use crate::registry::{Answer, Failure, Resolve};
use crate::worker::builder::{Build, Progress, Request, Tell};

pub(super) fn failure(reason: BuildReason, message: &str, may_pass: bool) -> Failure {
    Failure {
        reason,
        message: message.to_owned(),
        may_pass,
    }
}

/// A builder whose images hold `files`, or which fails.
#[derive(Debug, Clone, Default)]
pub(super) struct FakeBuilder {
    state: Arc<Mutex<BuilderState>>,
    go_on: Arc<Notify>,
}

#[derive(Debug, Default)]
struct BuilderState {
    files: Vec<String>,
    failure: Option<Failure>,
    hold: bool,
    requests: Vec<(String, bool)>,
    sources: Vec<String>,
    pushed: Vec<String>,
}

impl FakeBuilder {
    pub(super) fn install(&self, unit: &str) {
        let path = format!("/usr/lib/systemd/system/{unit}");
        self.state.lock().unwrap().files.push(path);
    }

    pub(super) fn fail(&self, failure: Option<Failure>) {
        self.state.lock().unwrap().failure = failure;
    }

    /// Builds stay under way until they are let go.
    pub(super) fn hold(&self) {
        self.state.lock().unwrap().hold = true;
    }

    pub(super) fn let_go(&self) {
        self.state.lock().unwrap().hold = false;
        self.go_on.notify_waiters();
    }

    /// Of each attempt, the Containerfile and whether the cache could be used.
    pub(super) fn requests(&self) -> Vec<(String, bool)> {
        self.state.lock().unwrap().requests.clone()
    }

    /// Waits until so many attempts have begun: a build whose status says so may not have come to its builder yet.
    pub(super) async fn until_asked(&self, count: usize) {
        eventually("the builder is asked", || async {
            match self.requests().len() {
                seen if seen == count => Ok(()),
                seen => Err(seen),
            }
        })
        .await;
    }

    /// Of each attempt, the files in its contexts, the images that are contexts, and the ids of its secrets.
    pub(super) fn sources(&self) -> Vec<String> {
        self.state.lock().unwrap().sources.clone()
    }

    pub(super) fn pushed(&self) -> Vec<String> {
        self.state.lock().unwrap().pushed.clone()
    }
}

/// Files by path; a bootable image.
#[derive(Debug)]
pub(super) struct FakeImage {
    files: BTreeMap<String, Entry>,
    digest: String,
    to: String,
}

impl ImageRoot for FakeImage {
    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        Ok(self.files.get(path).cloned())
    }

    fn read(&self, path: &str, _: usize) -> io::Result<Option<Vec<u8>>> {
        let found = self.files.contains_key(path);
        Ok(found.then(|| b"[Install]\nWantedBy=multi-user.target\n".to_vec()))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let below = format!("{path}/");
        let rest = self
            .files
            .keys()
            .filter_map(|file| file.strip_prefix(&below));
        let names = rest.filter_map(|rest| rest.split('/').next());
        Ok(names.map(str::to_owned).collect())
    }
}

impl Build for FakeBuilder {
    type Image = FakeImage;

    async fn build(&self, request: Request, tell: Tell) -> Result<FakeImage, Failure> {
        {
            let mut state = self.state.lock().unwrap();
            let seen = (request.containerfile.clone(), request.use_cache);
            state.requests.push(seen);
            state.sources.push(sources_of(&request));
        }
        tell(Progress::Step {
            step: 1,
            steps: 2,
            text: "RUN true".to_owned(),
        });
        loop {
            let released = self.go_on.notified();
            if !self.state.lock().unwrap().hold {
                break;
            }
            released.await;
        }
        let state = self.state.lock().unwrap();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let mut files: BTreeMap<String, Entry> = state
            .files
            .iter()
            .map(|path| (path.clone(), Entry::File))
            .collect();
        files.insert("/usr/lib/modules/6.1/vmlinuz".to_owned(), Entry::File);
        files.insert("/usr/lib/systemd/systemd".to_owned(), Entry::File);
        files.insert("/sysroot".to_owned(), Entry::Directory);
        files.insert(
            "/ostree".to_owned(),
            Entry::Link("sysroot/ostree".to_owned()),
        );
        Ok(FakeImage {
            files,
            digest: digest_of(&request.containerfile),
            to: request.to.to_string(),
        })
    }

    async fn push(&self, image: Arc<FakeImage>, _: Tell) -> Result<String, Failure> {
        self.state.lock().unwrap().pushed.push(image.to.clone());
        Ok(image.digest.clone())
    }
}

fn sources_of(request: &Request) -> String {
    let mut found = Vec::new();
    for (name, context) in &request.named_contexts {
        match context {
            NamedContext::Image(image) | NamedContext::Artifact(image) => {
                found.push(format!("{name} {image}"))
            }
            NamedContext::Dir(dir) => {
                for entry in std::fs::read_dir(dir).unwrap() {
                    let path = entry.unwrap().path();
                    let file = path.file_name().unwrap().to_string_lossy();
                    let text = std::fs::read_to_string(&path).unwrap();
                    found.push(format!("{name}/{file}={text}"));
                }
            }
        }
    }
    found.push(format!("{:?}", request.secrets));
    found.join(" ")
}

/// A digest that is the same for the same text.
pub(super) fn digest_of(text: &str) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("sha256:{:064x}", hasher.finish())
}

/// Registries in which every tag has a digest, or which fail.
#[derive(Debug, Clone, Default)]
pub(super) struct FakeRegistries {
    state: Arc<Mutex<RegistriesState>>,
}

#[derive(Debug, Default)]
struct RegistriesState {
    failure: Option<Failure>,
    push: Option<Answer>,
    hang: bool,
    asked: Vec<String>,
    removed: Vec<String>,
}

impl FakeRegistries {
    pub(super) fn fail(&self, failure: Option<Failure>) {
        self.state.lock().unwrap().failure = failure;
    }

    /// What is answered to whether images can be pushed.
    pub(super) fn answer_push(&self, answer: Answer) {
        self.state.lock().unwrap().push = Some(answer);
    }

    /// Nobody is answered who asks for a push.
    pub(super) fn hang(&self) {
        self.state.lock().unwrap().hang = true;
    }

    /// What was asked so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    /// What was removed, in order.
    pub(super) fn removed(&self) -> Vec<String> {
        self.state.lock().unwrap().removed.clone()
    }
}

impl Resolve for FakeRegistries {
    async fn digest(&self, reference: &str, _: ClientConfig) -> Result<String, Failure> {
        match &self.state.lock().unwrap().failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(digest_of(reference)),
        }
    }

    async fn remove(&self, reference: &str, _: ClientConfig) -> Result<(), Failure> {
        let mut state = self.state.lock().unwrap();
        match &state.failure {
            Some(failure) => Err(failure.clone()),
            None => {
                state.removed.push(reference.to_owned());
                Ok(())
            }
        }
    }

    async fn can_pull(&self, reference: &str, _: ClientConfig) -> Answer {
        let mut state = self.state.lock().unwrap();
        state.asked.push(format!("pull {reference}"));
        match &state.failure {
            Some(failure) => Answer::Silence(failure.clone()),
            None => Answer::Yes,
        }
    }

    async fn can_push(&self, reference: &str, _: ClientConfig) -> Answer {
        let hang = {
            let mut state = self.state.lock().unwrap();
            state.asked.push(format!("push {reference}"));
            state.hang
        };
        if hang {
            std::future::pending::<()>().await;
        }
        let answer = self.state.lock().unwrap().push.clone();
        answer.unwrap_or(Answer::Yes)
    }
}

/// Plays a node's agent: follows the annotations, one step at each look.
pub(super) struct FakeAgent {
    client: Client,
    node: String,
    /// Every target it was taken to, in order.
    pub(super) reached: Vec<(String, Option<String>)>,
}

impl std::fmt::Debug for FakeAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} reached {:?}", self.node, self.reached)
    }
}

impl FakeAgent {
    pub(super) fn new(client: &Client, node: &str) -> Self {
        FakeAgent {
            client: client.clone(),
            node: node.to_owned(),
            reached: Vec::new(),
        }
    }

    async fn annotate(&self, annotations: Value) -> kube::Result<()> {
        let change = json!({"metadata": {"annotations": annotations}});
        Api::<Node>::all(self.client.clone())
            .patch(&self.node, &PatchParams::default(), &Patch::Merge(change))
            .await
            .map(drop)
    }

    /// Does what the protocol asks for next. Returns whether the node is where it should be.
    pub(super) async fn act(&mut self) -> bool {
        self.try_act().await.unwrap()
    }

    /// The same, against an API that may fail.
    pub(super) async fn try_act(&mut self) -> kube::Result<bool> {
        let node = Api::<Node>::all(self.client.clone())
            .get(&self.node)
            .await?;
        let get = |key: &str| annotation(&node, key).map(str::to_owned);
        let Some(config) = get(keys::DESIRED_CONFIG) else {
            return Ok(false);
        };
        let image = get(keys::DESIRED_IMAGE);
        let (asked, answered) = (get(keys::DESIRED_DRAIN), get(keys::LAST_APPLIED_DRAIN));
        let (drain, uncordon) = (format!("drain-{config}"), format!("uncordon-{config}"));
        let arrived = get(keys::CURRENT_CONFIG).as_ref() == Some(&config)
            && get(keys::CURRENT_IMAGE) == image;
        if !arrived {
            if asked.as_ref() != Some(&drain) {
                let ask = json!({keys::STATE: "Working", keys::DESIRED_DRAIN: drain});
                self.annotate(ask).await?;
            } else if answered == asked {
                // What it runs survives an API that does not hear of it.
                let there = (config.clone(), image.clone());
                if self.reached.last() != Some(&there) {
                    assert!(node.spec.as_ref().unwrap().unschedulable == Some(true));
                    self.reached.push(there);
                }
                let there = json!({
                    keys::CURRENT_CONFIG: config,
                    keys::CURRENT_IMAGE: image,
                    keys::DESIRED_DRAIN: uncordon,
                });
                self.annotate(there).await?;
            }
            return Ok(false);
        }
        if get(keys::STATE).as_deref() == Some("Done") {
            return Ok(true);
        }
        if answered.as_ref() == Some(&uncordon) {
            self.annotate(json!({keys::STATE: "Done"})).await?;
        }
        Ok(false)
    }

    pub(super) fn name(&self) -> &str {
        &self.node
    }
}

/// A Node that its agent has just registered.
pub(super) fn node(name: &str, roles: &[&str]) -> Node {
    let labels: BTreeMap<String, String> = roles
        .iter()
        .map(|role| (format!("{}{role}", keys::NODE_ROLE_PREFIX), String::new()))
        .collect();
    let mut node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {
                "kubeletVersion": "caprock/0", "architecture": "", "bootID": "", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
                "systemUUID": "",
            },
        },
    }))
    .unwrap();
    assert_eq!(node.name_any(), name);
    node.spec = Some(Default::default());
    node
}
