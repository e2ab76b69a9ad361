//! Which files the build itself needs.

use crate::ignition::Config;

/// What package managers read during a build. A path that ends in `/` stands for all below it.
const REPOSITORIES: &[&str] = &[
    "/etc/apt/",
    "/etc/dnf/",
    "/etc/pki/rpm-gpg/",
    "/etc/rhsm/ca/",
    "/etc/yum.conf",
    "/etc/yum.repos.d/",
];

/// Among them, what holds credentials. An image layer is no place for a secret, so these stay live inputs.
const SECRETS: &[&str] = &["/etc/apt/auth.conf", "/etc/apt/auth.conf.d/"];

/// Files that a build may read, and that most builds do not.
struct OnRequest {
    files: &'static [&'static str],
    /// Whoever reads them says one of these.
    words: &'static [&'static str],
}

const ON_REQUEST: &[OnRequest] = &[
    // Trust anchors: nothing looks at them before one of the tools has put them into a bundle, or a package source
    // names one.
    OnRequest {
        files: &[
            "/etc/ca-certificates.conf",
            "/etc/ca-certificates/",
            "/etc/pki/ca-trust/source/",
            // Where `/usr/local/share/ca-certificates` is on a node.
            "/var/usrlocal/share/ca-certificates/",
        ],
        words: &[
            "/etc/ca-certificates",
            "/etc/pki/ca-trust",
            "/local/share/ca-certificates",
            "trust anchor",
            "trust extract",
            "update-ca-certificates",
            "update-ca-trust",
        ],
    },
    // Where images come from, and which are accepted.
    OnRequest {
        files: &[
            "/etc/containers/certs.d/",
            "/etc/containers/policy.json",
            "/etc/containers/registries.conf",
            "/etc/containers/registries.conf.d/",
            "/etc/containers/registries.d/",
        ],
        words: &["/etc/containers", "buildah", "podman", "skopeo"],
    },
];

/// What a build reads besides the package sources: told by its Containerfile and by those sources.
#[derive(Debug, Clone, Copy)]
pub struct Reads<'a> {
    containerfile: &'a str,
    config: &'a Config,
}

impl<'a> Reads<'a> {
    /// What the build of a Containerfile with the files of a config reads.
    pub fn new(containerfile: &'a str, config: &'a Config) -> Self {
        Reads {
            containerfile,
            config,
        }
    }

    /// Whether a file goes into the image because its build needs it.
    pub fn is_build_input(&self, path: &str) -> bool {
        // What comes from a Secret is in no image, wherever it lies.
        let node = self.config.node(path);
        let secret = SECRETS.iter().any(|place| is_at(place, path))
            || path.ends_with(".key")
            || node.is_some_and(|node| node.secret().is_some());
        if secret {
            return false;
        }
        let at = |places: &[&str]| places.iter().any(|place| is_at(place, path));
        at(REPOSITORIES)
            || ON_REQUEST
                .iter()
                .any(|kind| at(kind.files) && self.says(kind.words))
    }

    fn says(&self, words: &[&str]) -> bool {
        let any = |text: &str| words.iter().any(|word| text.contains(word));
        any(self.containerfile)
            || self.config.nodes.iter().any(|node| {
                let source = REPOSITORIES.iter().any(|place| is_at(place, &node.path));
                source
                    && node
                        .contents()
                        .is_some_and(|contents| any(&String::from_utf8_lossy(contents)))
            })
    }
}

fn is_at(place: &str, path: &str) -> bool {
    match place.ends_with('/') {
        true => path.starts_with(place),
        false => path == place,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ignition;
    use serde_json::json;

    const PLAIN: &str =
        "FROM configs AS final\nRUN dnf install -y autofs && bootc container lint\n";
    const ANCHOR: &str = "/etc/pki/ca-trust/source/anchors/ours.crt";

    fn is_input(path: &str, containerfile: &str) -> bool {
        Reads::new(containerfile, &Config::default()).is_build_input(path)
    }

    #[test]
    fn package_sources_are_inputs_and_their_secrets_are_not() {
        for path in ["/etc/yum.repos.d/epel.repo", "/etc/apt/sources.list"] {
            assert!(is_input(path, PLAIN), "{path}");
        }
        for path in [
            "/etc/yum.repos.d",
            "/etc/sssd/sssd.conf",
            "/etc/apt/auth.conf.d/private.conf",
            "/etc/pki/entitlement/1-key.pem",
            "/var/lib/kubelet/config.json",
        ] {
            assert!(!is_input(path, PLAIN), "{path}");
        }
    }

    #[test]
    fn trust_and_registries_are_inputs_of_builds_that_read_them() {
        let check = |path: &str, line: &str| {
            assert!(!is_input(path, PLAIN), "{path}");
            assert!(
                is_input(path, &format!("{PLAIN}{line}\n")),
                "{path}: {line}"
            );
        };
        check(ANCHOR, "RUN update-ca-trust");
        check(ANCHOR, "# reads /etc/pki/ca-trust/source/anchors");
        check(
            "/var/usrlocal/share/ca-certificates/a.crt",
            "RUN update-ca-certificates",
        );
        check("/etc/containers/registries.conf", "RUN skopeo copy x y");
        check(
            "/etc/containers/policy.json",
            "RUN cat /etc/containers/policy.json",
        );
        let key = "/etc/containers/certs.d/r.example.com/client.key";
        assert!(!is_input(key, "RUN podman pull x"));
        assert!(!is_input(
            "/etc/containers/registries.conf.bak",
            "RUN podman pull x"
        ));
        assert!(!is_input(ANCHOR, "RUN podman pull x"));
    }

    #[test]
    fn a_package_source_may_name_an_anchor() {
        let config = |text: &str| {
            let files = json!([{"path": "/etc/yum.repos.d/x.repo", "contents": {"source": format!("data:,{text}")}}]);
            let config = json!({"ignition": {"version": "3.4.0"}, "storage": {"files": files}});
            ignition::parse(&config).unwrap()
        };
        let named = config(&format!("sslcacert={ANCHOR}"));
        assert!(Reads::new(PLAIN, &named).is_build_input(ANCHOR));
        let other = config("gpgcheck=1");
        assert!(!Reads::new(PLAIN, &other).is_build_input(ANCHOR));
    }
}
