//! Which files the build itself needs.

/// Places that package managers, trust stores and image tools read during a build. A path that ends in `/` stands for all
/// below it.
pub const PREFIXES: &[&str] = &[
    "/etc/apt/",
    "/etc/ca-certificates.conf",
    "/etc/ca-certificates/",
    "/etc/containers/certs.d/",
    "/etc/containers/policy.json",
    "/etc/containers/registries.conf",
    "/etc/containers/registries.conf.d/",
    "/etc/containers/registries.d/",
    "/etc/dnf/",
    "/etc/pki/ca-trust/source/",
    "/etc/pki/rpm-gpg/",
    "/etc/rhsm/ca/",
    "/etc/yum.conf",
    "/etc/yum.repos.d/",
    "/usr/local/share/ca-certificates/",
];

/// Among them, what holds credentials. An image layer is no place for a secret, so these stay live inputs.
const SECRETS: &[&str] = &["/etc/apt/auth.conf", "/etc/apt/auth.conf.d/"];

/// Whether a file goes into the image because its build needs it.
pub fn is_build_input(path: &str) -> bool {
    let is_at = |place: &&str| match place.ends_with('/') {
        true => path.starts_with(place),
        false => path == *place,
    };
    PREFIXES.iter().any(is_at) && !SECRETS.iter().any(is_at) && !path.ends_with(".key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_build_needs_and_nothing_else() {
        for path in [
            "/etc/yum.repos.d/epel.repo",
            "/etc/apt/sources.list",
            "/etc/containers/registries.conf",
            "/etc/pki/ca-trust/source/anchors/ours.crt",
        ] {
            assert!(is_build_input(path), "{path}");
        }
        for path in [
            "/etc/yum.repos.d",
            "/etc/sssd/sssd.conf",
            "/etc/containers/registries.conf.bak",
            "/etc/containers/certs.d/r.example.com/client.key",
            "/etc/apt/auth.conf.d/private.conf",
            "/etc/pki/entitlement/1-key.pem",
            "/var/lib/kubelet/config.json",
        ] {
            assert!(!is_build_input(path), "{path}");
        }
    }
}
