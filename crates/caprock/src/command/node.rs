//! `caprock node`: credentials, units and a first image for nodes that no kubelet registers.

use anyhow::{Context, anyhow};
use camino::Utf8Path;
use kube::config::Kubeconfig;

use crate::cli;
use crate::exit::{Failure, refused};
use crate::output;
use crate::serve::{credentials, files, pki};

pub(crate) async fn run(command: cli::Node) -> Result<(), Failure> {
    match command {
        cli::Node::Kubeconfig(args) => kubeconfig(&args),
        cli::Node::Units(args) => units(&args.dir),
        cli::Node::Import(args) => super::agent::import(&args).await,
    }
}

/// Prints a kubeconfig whose token belongs to `system:node:NAME` alone.
fn kubeconfig(args: &cli::NodeKubeconfig) -> Result<(), Failure> {
    if !is_node_name(&args.node) {
        return Err(refused(anyhow!(
            "`{}` is not a node name: expected lower-case letters, digits, `-` and `.`, 253 at most",
            args.node
        )));
    }
    let path = args.data_dir.join("kubeconfig");
    let (server, ca) = server_of(&path).map_err(|error| {
        refused(error).hint(format!(
            "start `caprock serve --data-dir {}` first",
            args.data_dir
        ))
    })?;
    let user = format!("system:node:{}", args.node);
    let token = credentials::mint(&args.data_dir, &user, credentials::NODES)?;
    Ok(output::result(&credentials::kubeconfig(
        &server, &ca, &user, &token,
    ))?)
}

/// Address and CA that the server of a data directory wrote into its own kubeconfig.
fn server_of(kubeconfig: &Utf8Path) -> anyhow::Result<(String, String)> {
    let text = files::read_if_present(kubeconfig)?
        .with_context(|| format!("there is no `{kubeconfig}`"))?;
    let config = Kubeconfig::from_yaml(&text)
        .with_context(|| format!("`{kubeconfig}` is not a kubeconfig"))?;
    let cluster = config
        .clusters
        .into_iter()
        .find_map(|named| named.cluster)
        .with_context(|| format!("`{kubeconfig}` names no cluster"))?;
    let ca = cluster
        .certificate_authority_data
        .with_context(|| format!("`{kubeconfig}` has no certificate authority"))?;
    use base64::Engine as _;
    let ca = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(ca)?)?;
    pki::certificates(&ca)?;
    Ok((
        cluster
            .server
            .with_context(|| format!("`{kubeconfig}` names no server"))?,
        ca,
    ))
}

fn units(dir: &Utf8Path) -> Result<(), Failure> {
    for (name, text) in agent::units() {
        files::write_public(&dir.join(name), &text)?;
        output::words(&format!("wrote {}\n", dir.join(name)));
    }
    Ok(())
}

/// DNS-1123 subdomain, as the API requires of Node names.
fn is_node_name(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            label.starts_with(edge)
                && label.ends_with(edge)
                && label.chars().all(|c| edge(c) || c == '-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_dns_names() {
        for good in ["worker-1", "a", "n1.example.com"] {
            assert!(is_node_name(good), "{good}");
        }
        for bad in ["", "Worker", "-a", "a-", "a..b", "a/b", "../x"] {
            assert!(!is_node_name(bad), "{bad}");
        }
    }
}
