//! `caprock certs`: the certificate authority of a server, and certificates of users.

use anyhow::anyhow;
use camino::Utf8Path;
use jiff::Timestamp;

use super::node::running_server;
use crate::cli;
use crate::exit::{Failure, refused};
use crate::output;
use crate::serve::credentials::{self, Secret};
use crate::serve::pki::Authority;

pub(crate) fn run(command: &cli::Certs) -> Result<(), Failure> {
    match command {
        cli::Certs::Status(args) => status(&args.server.data_dir),
        cli::Certs::Rotate(args) => rotate(args),
        cli::Certs::User(args) => user(args),
    }
}

fn authority(data_dir: &Utf8Path) -> Result<Authority, Failure> {
    Authority::load(data_dir)?.ok_or_else(|| {
        refused(anyhow!("`{data_dir}` has no certificate authority"))
            .hint(format!("start `caprock serve --data-dir {data_dir}` first"))
    })
}

fn status(data_dir: &Utf8Path) -> Result<(), Failure> {
    let authority = authority(data_dir)?;
    let expires = authority
        .expires()
        .map_or("never".to_owned(), |end| end.to_string());
    let mut text = format!(
        "authority expires:  {expires}\ntrusted bundle:     {}\n",
        authority.fingerprint()
    );
    text.push_str(&match authority.progress() {
        None => "rotation:           none\n".to_owned(),
        Some((phase, since, overlap)) => format!(
            "rotation:           {phase} since {since}, for at least {overlap:#} and until every node has followed\n"
        ),
    });
    Ok(output::result(&text)?)
}

fn user(args: &cli::CertsUser) -> Result<(), Failure> {
    let data_dir = &args.server.data_dir;
    if args.user.is_empty() || args.life.is_zero() {
        return Err(refused(anyhow!(
            "expected a user's name and a life longer than nothing"
        )));
    }
    let (server, ca) = running_server(data_dir)?;
    let authority = authority(data_dir)?;
    let group = args.group.as_deref();
    let client = authority.client(&args.user, group, args.life, Timestamp::now())?;
    let secret = Secret::Certificate {
        chain: &client.chain,
        key: &client.key,
    };
    Ok(output::result(&credentials::kubeconfig(
        &server, &ca, &args.user, secret,
    ))?)
}

fn rotate(args: &cli::CertsRotate) -> Result<(), Failure> {
    let data_dir = &args.server.data_dir;
    authority(data_dir)?;
    let begun = Authority::rotate(data_dir, args.overlap, Timestamp::now())?;
    if !begun {
        return Err(refused(anyhow!("the authority is being replaced already"))
            .hint("`caprock certs status` says how far it is"));
    }
    output::words(&format!(
        "a new authority is being introduced; `caprock certs status --data-dir {data_dir}` says how far it is\n"
    ));
    Ok(())
}
