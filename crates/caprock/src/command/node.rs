//! `caprock node`: credentials, units and a first image for nodes that no kubelet registers.

use anyhow::{Context, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::Utf8Path;
use jiff::Timestamp;
use kube::config::Kubeconfig;

use crate::cli;
use crate::exit::{Failure, refused};
use crate::output;
use crate::serve::credentials::Secret;
use crate::serve::{credentials, files, join, pki, valid_node_name};

pub(crate) async fn run(command: cli::Node) -> Result<(), Failure> {
    let now = Timestamp::now();
    match command {
        cli::Node::Token(args) => token(&args, now),
        cli::Node::Tokens(args) => tokens(&args.server.data_dir, now),
        cli::Node::Revoke(args) => revoke(&args, now),
        cli::Node::Kubeconfig(args) => kubeconfig(&args, now),
        cli::Node::Units(args) => units(&args.dir),
        cli::Node::Import(args) => super::agent::import(&args).await,
    }
}

/// Prints what a new machine joins a pool with.
fn token(args: &cli::NodeToken, now: Timestamp) -> Result<(), Failure> {
    let data_dir = &args.server.data_dir;
    check_name("pool", &args.pool)?;
    args.node
        .as_deref()
        .map_or(Ok(()), |node| check_name("node", node))?;
    let (server, ca) = running_server(data_dir)?;
    let (clear, token) =
        join::mint(data_dir, &args.pool, args.node.as_deref(), args.ttl, now).map_err(refused)?;
    let text = match args.output {
        cli::JoinFormat::Kubeconfig => {
            credentials::kubeconfig(&server, &ca, "join", Secret::Token(&clear))
        }
        cli::JoinFormat::Ignition => pointer(&server, &ca, &args.pool, &clear),
    };
    output::result(&text)?;
    output::words(&format!(
        "join token {} for pool {} ends at {}\n",
        token.id, token.pool, token.expires
    ));
    Ok(())
}

/// An Ignition config that is replaced by the pool's, which the server gives for the token.
fn pointer(server: &str, ca: &str, pool: &str, token: &str) -> String {
    let source = |bytes: &str| format!("data:;base64,{}", STANDARD.encode(bytes));
    let config = serde_json::json!({"ignition": {
        // The first version with headers of requests.
        "version": "3.1.0",
        "config": {"replace": {
            "source": format!("{server}/config/{pool}"),
            "httpHeaders": [{"name": "Authorization", "value": format!("Bearer {token}")}],
        }},
        "security": {"tls": {"certificateAuthorities": [{"source": source(ca)}]}},
    }});
    format!("{config:#}\n")
}

fn tokens(data_dir: &Utf8Path, now: Timestamp) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = join::list(data_dir, now)?
        .into_iter()
        .map(|token| {
            let node = token.node.unwrap_or_else(|| "any".to_owned());
            vec![token.id, token.pool, node, token.expires.to_string()]
        })
        .collect();
    Ok(output::result(&output::table(
        &["ID", "POOL", "NODE", "EXPIRES"],
        &rows,
    ))?)
}

fn revoke(args: &cli::NodeRevoke, now: Timestamp) -> Result<(), Failure> {
    let (data_dir, name) = (&args.server.data_dir, &args.name);
    let (found, what) = match args.token {
        true => (join::revoke(data_dir, name, now)?, "join token"),
        false => (
            credentials::revoke(data_dir, name, now)?,
            "credential of node",
        ),
    };
    if !found {
        return Err(refused(anyhow!("there is no {what} `{name}`")));
    }
    output::words(&format!("{what} {name} is refused from now on\n"));
    Ok(())
}

/// Prints a kubeconfig whose token belongs to `system:node:NAME` alone.
fn kubeconfig(args: &cli::NodeKubeconfig, now: Timestamp) -> Result<(), Failure> {
    check_name("node", &args.node)?;
    let (server, ca) = running_server(&args.data_dir)?;
    let user = format!("{}{}", credentials::NODE_PREFIX, args.node);
    let token = credentials::mint(&args.data_dir, &user, credentials::NODES, None, now)?;
    Ok(output::result(&credentials::kubeconfig(
        &server,
        &ca,
        &user,
        Secret::Token(&token),
    ))?)
}

fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    if valid_node_name(name) {
        return Ok(());
    }
    Err(refused(anyhow!(
        "`{name}` is not a {what} name: expected lower-case letters, digits, `-` and `.`, 253 at most"
    )))
}

pub(super) fn running_server(data_dir: &Utf8Path) -> Result<(String, String), Failure> {
    server_of(&data_dir.join("kubeconfig")).map_err(|error| {
        refused(error).hint(format!("start `caprock serve --data-dir {data_dir}` first"))
    })
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
    let ca = String::from_utf8(STANDARD.decode(ca)?)?;
    pki::certificates(&ca)?;
    Ok((
        cluster
            .server
            .with_context(|| format!("`{kubeconfig}` names no server"))?,
        ca,
    ))
}

fn units(dir: &Utf8Path) -> Result<(), Failure> {
    let mut written = Vec::new();
    for (name, text) in agent::units() {
        files::write_public(&dir.join(name), &text)?;
        written.push(name);
    }
    output::words(&format!("wrote to {dir}: {}\n", written.join(", ")));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_pointer_carries_token_and_trust() {
        let text = pointer("https://192.0.2.1:6443", "PEM", "worker", "id.secret");
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        let replace = &config["ignition"]["config"]["replace"];
        assert_eq!(replace["source"], "https://192.0.2.1:6443/config/worker");
        assert_eq!(
            replace["httpHeaders"][0],
            serde_json::json!({"name": "Authorization", "value": "Bearer id.secret"})
        );
        let authority = &config["ignition"]["security"]["tls"]["certificateAuthorities"][0];
        assert_eq!(authority["source"], "data:;base64,UEVN");
    }
}
