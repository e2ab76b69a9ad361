//! By which names and addresses a cluster's registry is reached.
//!
//! Nodes are not in the cluster's DNS, but kube-proxy, or what does its work, takes them to a Service's addresses: the
//! first of them is what images are named by, unless whoever runs the cluster has a name for it.

use std::net::IpAddr;

use anyhow::Context;
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use kube::{Client, ResourceExt};
use model::pull_spec::PullSpec;

use crate::cli::InNamespace;
use crate::serve::pki::Subject;

/// How clients reach the registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// As in an image's reference, the one to name images by first.
    pub(super) hosts: Vec<String>,
    /// The same for the certificate.
    pub(super) subject: Subject,
}

impl Reached {
    /// The hosts that were given, then what the Service has.
    pub(super) async fn find(
        client: &Client,
        given: &[String],
        service: Option<&InNamespace>,
    ) -> anyhow::Result<Self> {
        let mut reached = Self::default();
        for host in given {
            reached.add(host)?;
        }
        if let Some(named) = service {
            let services: Api<Service> = Api::namespaced(client.clone(), &named.namespace);
            let service = services.get(&named.name).await.with_context(|| {
                format!(
                    "failed to read Service `{}/{}`",
                    named.namespace, named.name
                )
            })?;
            for host in hosts_of(&service, named)? {
                reached.add(&host)?;
            }
        }
        Ok(reached)
    }

    fn add(&mut self, host: &str) -> anyhow::Result<()> {
        check(host)?;
        if self.hosts.iter().any(|known| known == host) {
            return Ok(());
        }
        self.hosts.push(host.to_owned());
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        match name.parse::<IpAddr>() {
            Ok(address) => push_new(&mut self.subject.addresses, address),
            Err(_) => push_new(&mut self.subject.names, name.to_owned()),
        }
        Ok(())
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// Whether images can be named by this host and ConfigMap `registry-certs` have a key for it.
pub(super) fn check(host: &str) -> anyhow::Result<()> {
    let image = format!("{host}/image").parse::<PullSpec>();
    anyhow::ensure!(
        image.is_ok_and(|image| image.host() == host) && !host.contains('['),
        "expected `HOST[:PORT]` with a name or an IPv4 address, found `{host}`"
    );
    Ok(())
}

/// What a Service is reached by, at its first port.
fn hosts_of(service: &Service, named: &InNamespace) -> anyhow::Result<Vec<String>> {
    let name = service.name_any();
    let spec = service.spec.as_ref();
    let port = spec
        .and_then(|spec| spec.ports.as_ref()?.first())
        .map(|port| port.port)
        .with_context(|| format!("Service `{name}` has no port"))?;
    let own = spec.into_iter().flat_map(|spec| {
        let first = spec.cluster_ip.iter();
        first.chain(spec.cluster_ips.iter().flatten())
    });
    let external = spec
        .into_iter()
        .flat_map(|spec| spec.external_ips.iter().flatten());
    let balancer = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let balanced = balancer
        .into_iter()
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .flat_map(|ingress| ingress.ip.iter().chain(&ingress.hostname));
    let usable =
        |address: &&String| !address.is_empty() && *address != "None" && !address.contains(':');
    let mut hosts: Vec<String> = own
        .chain(external)
        .chain(balanced)
        .filter(usable)
        .map(|address| format!("{address}:{port}"))
        .collect();
    anyhow::ensure!(
        !hosts.is_empty(),
        "Service `{name}` has no IPv4 address that nodes could reach; give it one, or name the registry with `--host`"
    );
    let names = named.service_names().into_iter();
    hosts.extend(names.map(|name| format!("{name}:{port}")));
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn hosts(spec: serde_json::Value, status: serde_json::Value) -> anyhow::Result<String> {
        let service = json!({"metadata": {"name": "r"}, "spec": spec, "status": status});
        let service = serde_json::from_value(service).unwrap();
        Ok(hosts_of(&service, &"ns/r".parse().unwrap())?.join(" "))
    }

    #[test]
    fn a_service_is_reached_by_its_addresses_and_names() {
        let port = json!([{"port": 5000}]);
        assert_eq!(
            hosts(
                json!({"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9", "fd00::9"], "ports": port}),
                json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "r.example"}]}})
            )
            .unwrap(),
            "10.0.0.9:5000 10.0.0.9:5000 192.0.2.1:5000 r.example:5000 r.ns.svc:5000 r.ns.svc.cluster.local:5000"
        );
        for wrong in [
            json!({"clusterIP": "None", "ports": port}),
            json!({"ports": port}),
            json!({"clusterIP": "10.0.0.9"}),
        ] {
            assert!(hosts(wrong.clone(), json!({})).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_with_a_port() {
        for good in [
            "r.example",
            "r.example:5000",
            "10.0.0.9:5000",
            "localhost:1",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "r",
            "r.example/x",
            "https://r.example",
            "[::1]:5000",
            "r.example:",
            "a b.c",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        let mut reached = Reached::default();
        for host in ["r.example:1", "10.0.0.9:1", "r.example:1", "r.example:2"] {
            reached.add(host).unwrap();
        }
        assert_eq!(reached.hosts.len(), 3);
        assert_eq!(reached.subject.names, ["r.example"]);
        assert_eq!(reached.subject.addresses.len(), 1);
    }
}
