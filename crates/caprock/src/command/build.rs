//! `caprock build`: an image from a Containerfile, with the same builder that the controllers use.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use builder::{
    BuildError, Destination, Engine, EngineConfig, Ignore, Image, Index, NamedContext, Request,
    Secrets,
};
use camino::{Utf8Path, Utf8PathBuf};
use oci::Reference;
use oci::manifest::Platform;
use tokio_util::sync::CancellationToken;

use super::progress::Shown;
use super::registry::{self, Place};
use crate::cli;
use crate::exit::{Failure, refused, unexpected};
use crate::output;

pub(crate) async fn run(args: cli::Build) -> Result<(), Failure> {
    let tags = args
        .tag
        .iter()
        .map(|tag| registry::reference(tag))
        .collect::<Result<Vec<_>, _>>()?;
    let output = args.output.as_deref().map(output_of).transpose()?;
    let cache_from = args
        .cache_from
        .iter()
        .map(|text| cache("--cache-from", text));
    let cache_from = cache_from.collect::<Result<Vec<_>, _>>()?;
    let cache_to = args.cache_to.as_ref().map(|text| cache("--cache-to", text));
    let cache_to = cache_to.transpose()?;
    let named: Vec<&Reference> = tags.iter().chain(&cache_from).chain(&cache_to).collect();
    let client = registry::client(&args.registry, &named)?;
    let mut request = request(&args)?;
    request.keep_steps = cache_to.is_some();
    request.cache_from = cache_from;
    if args.push {
        let to = |reference: &Reference| Destination {
            reference: reference.clone(),
            client: client.clone(),
        };
        request.destinations = tags.iter().map(to).collect();
    }
    let engine = Engine::open(EngineConfig {
        cache_dir: args.cache.cache_dir.clone().into_std_path_buf(),
        runtime: None,
        cache_limit: args.cache_limit.map(|limit| limit << 20),
        client,
    })
    .map_err(failure)?;

    let cancel = CancellationToken::new();
    let shown = Shown::new(args.progress);
    let work = async {
        let made = make(&engine, request, &args.platform, &cancel, &shown).await?;
        deliver(
            &engine,
            &made,
            args.push.then_some(tags.as_slice()),
            output.as_ref(),
            &shown,
        )
        .await?;
        if let Some(to) = &cache_to {
            let images: Vec<&Image> = made.images().iter().collect();
            engine
                .export_cache(&images, to, &|event| shown.event(event))
                .await
                .map_err(failure)?;
            output::words(&format!("put the build cache to {to}\n"));
        }
        Ok::<_, Failure>(made)
    };
    tokio::pin!(work);
    let made = tokio::select! {
        done = &mut work => done,
        signal = crate::host::stop_signal() => {
            output::words(&format!("stopping on {}\n", signal?));
            // The steps that run are killed and cleaned up before this returns.
            cancel.cancel();
            work.await
        }
    }?;
    if let Some(path) = &args.iidfile {
        std::fs::write(path, made.digest().to_string())
            .with_context(|| format!("failed to write `{path}`"))?;
    }
    Ok(output::result(&format!("{}\n", made.digest()))?)
}

/// What a build made: an image, or one for each of several platforms.
enum Made {
    Image(Image),
    Index(Index),
}

impl Made {
    fn digest(&self) -> oci::Digest {
        match self {
            Made::Image(image) => image.digest(),
            Made::Index(index) => index.digest(),
        }
    }

    fn images(&self) -> &[Image] {
        match self {
            Made::Image(image) => std::slice::from_ref(image),
            Made::Index(index) => index.images(),
        }
    }
}

async fn make(
    engine: &Engine,
    request: Request,
    platforms: &[String],
    cancel: &CancellationToken,
    shown: &Shown,
) -> Result<Made, Failure> {
    let tell = |event| shown.event(event);
    let (file, source) = (request.file_name.clone(), request.containerfile.clone());
    let build = async |request| {
        let built = engine.build(request, cancel.clone(), &tell).await;
        built.map_err(|error| {
            shown.failed(&error, &file, &source);
            failure(error)
        })
    };
    if let [] | [_] = platforms {
        return build(request).await.map(Made::Image);
    }
    let annotations = request.annotations.clone();
    let mut images = Vec::new();
    for text in platforms {
        shown.event(builder::Event::Note(format!("building for {text}")));
        let request = Request {
            platform: Some(platform(text)?),
            ..request.clone()
        };
        images.push(build(request).await?);
    }
    let index = Index::new(images, &annotations).map_err(failure)?;
    Ok(Made::Index(index))
}

async fn deliver(
    engine: &Engine,
    made: &Made,
    push: Option<&[Reference]>,
    output: Option<&Output>,
    shown: &Shown,
) -> Result<(), Failure> {
    if let Some(Output { form, path, tag }) = output {
        let (path, tag) = (path.as_std_path(), tag.as_deref());
        let tell = |event| shown.event(event);
        match (form, made) {
            (Form::Directory, Made::Image(image)) => {
                engine.write_layout(image, path, tag, &tell).await
            }
            (Form::Directory, Made::Index(index)) => {
                engine.write_index_layout(index, path, tag, &tell).await
            }
            (Form::Archive, Made::Image(image)) => {
                engine.write_archive(image, path, tag, &tell).await
            }
            (Form::Archive, Made::Index(index)) => {
                engine.write_index_archive(index, path, tag, &tell).await
            }
        }
        .map_err(failure)?;
        output::words(&format!("wrote {}\n", path.display()));
    }
    for tag in push.unwrap_or_default() {
        let tell = |event| shown.event(event);
        let pushed = match made {
            Made::Image(image) => engine.push(image, tag, &tell).await,
            Made::Index(index) => engine.push_index(index, tag, &tell).await,
        };
        pushed.map_err(failure)?;
        output::words(&format!("pushed {tag}\n"));
    }
    Ok(())
}

fn request(args: &cli::Build) -> Result<Request, Failure> {
    let file = match &args.file {
        Some(file) => file.clone(),
        None => default_file(&args.context)?,
    };
    let containerfile = std::fs::read_to_string(&file)
        .map_err(|error| refused(anyhow!(error).context(format!("failed to read `{file}`"))))?;
    if !args.context.is_dir() {
        return Err(refused(anyhow!(
            "the context `{}` is not a directory",
            args.context
        )));
    }
    Ok(Request {
        containerfile,
        file_name: file.to_string(),
        context: Some(args.context.clone().into_std_path_buf()),
        named_contexts: pairs("--build-context", &args.build_context)?
            .into_iter()
            .map(|(name, place)| (name, named_context(&place)))
            .collect(),
        labels: pairs("--label", &args.label)?,
        annotations: pairs("--annotation", &args.annotation)?,
        secrets: secrets(&args.secret)?,
        ssh_agents: agents(&args.ssh)?,
        ignore: ignore(args, &file)?,
        platform: match args.platform.as_slice() {
            [one] => Some(platform(one)?),
            // Each has a request of its own.
            _ => None,
        },
        build_args: pairs("--build-arg", &args.build_arg)?,
        target: args.target.clone(),
        no_cache: args.no_cache,
        compression: args.compression,
        created: source_date_epoch()?,
        ..Request::default()
    })
}

fn default_file(context: &Utf8Path) -> Result<Utf8PathBuf, Failure> {
    ["Containerfile", "Dockerfile"]
        .map(|name| context.join(name))
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            refused(anyhow!(
                "`{context}` has neither a Containerfile nor a Dockerfile"
            ))
            .hint("name one with `--file`")
        })
}

/// `id=ID[,src=FILE|,env=VAR]`; without either, the variable called like the secret, or else the file.
fn secrets(given: &[String]) -> Result<Secrets, Failure> {
    let mut secrets = Secrets::default();
    for text in given {
        let mut fields = BTreeMap::new();
        for field in text.split(',') {
            let (key, value) = field.split_once('=').ok_or_else(|| {
                refused(anyhow!(
                    "`--secret`: expected `KEY=VALUE` fields separated by commas"
                ))
            })?;
            fields.insert(key, value);
        }
        let id = *fields
            .get("id")
            .ok_or_else(|| refused(anyhow!("`--secret`: expected a field `id`")))?;
        let file = fields.get("src").or_else(|| fields.get("source"));
        let value = match (file, fields.get("env")) {
            (Some(file), _) => std::fs::read(file).map_err(|error| {
                refused(
                    anyhow!(error)
                        .context(format!("failed to read the secret `{id}` from `{file}`")),
                )
            })?,
            (None, env) => {
                let name = env.copied().unwrap_or(id);
                use std::os::unix::ffi::OsStringExt as _;
                let value = std::env::var_os(name).ok_or_else(|| {
                    refused(anyhow!(
                        "secret `{id}`: the environment variable `{name}` is not set"
                    ))
                    .hint("name a file with `src=FILE`, or a variable with `env=VAR`")
                })?;
                value.into_vec()
            }
        };
        secrets.insert(id, value);
    }
    Ok(secrets)
}

/// `ID[=SOCKET]`.
fn agents(given: &[String]) -> Result<BTreeMap<String, std::path::PathBuf>, Failure> {
    given
        .iter()
        .map(|text| match text.split_once('=') {
            Some((id, socket)) => Ok((id.to_owned(), socket.into())),
            None => match std::env::var_os("SSH_AUTH_SOCK") {
                Some(socket) => Ok((text.clone(), socket.into())),
                None => Err(refused(anyhow!(
                    "`--ssh {text}`: there is no SSH agent: SSH_AUTH_SOCK is not set"
                ))
                .hint("start one with `ssh-agent`, or name its socket: `--ssh ID=SOCKET`")),
            },
        })
        .collect()
}

fn named_context(place: &str) -> NamedContext {
    if let Some(image) = place.strip_prefix("docker-image://") {
        NamedContext::Image(image.to_owned())
    } else if let Some(artifact) = place.strip_prefix("oci-artifact://") {
        NamedContext::Artifact(artifact.to_owned())
    } else {
        NamedContext::Dir(place.into())
    }
}

/// The ignore file that was named, or the one that belongs to this Containerfile alone.
fn ignore(args: &cli::Build, file: &Utf8Path) -> Result<Option<Ignore>, Failure> {
    let path = match &args.ignorefile {
        Some(path) => path.clone(),
        None => {
            let own = ["containerignore", "dockerignore"]
                .map(|suffix| Utf8PathBuf::from(format!("{file}.{suffix}")));
            match own.into_iter().find(|path| path.is_file()) {
                Some(path) => path,
                None => return Ok(None),
            }
        }
    };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| refused(anyhow!(error).context(format!("failed to read `{path}`"))))?;
    Ok(Some(Ignore::parse(&text)))
}

/// `REF`, or as BuildKit writes it, `type=registry,ref=REF`.
fn cache(flag: &str, text: &str) -> Result<Reference, Failure> {
    let mut name = text;
    if text.contains('=') {
        let fields: BTreeMap<&str, &str> = text
            .split(',')
            .filter_map(|field| field.split_once('='))
            .collect();
        let kind = fields.get("type").copied().unwrap_or("registry");
        name = fields
            .get("ref")
            .copied()
            .filter(|_| kind == "registry")
            .ok_or_else(|| {
                refused(anyhow!(
                    "`{flag} {text}`: expected `REF` or `type=registry,ref=REF`"
                ))
            })?;
    }
    registry::reference(name)
}

fn platform(text: &str) -> Result<Platform, Failure> {
    builder::parse_platform(text).map_err(|message| refused(anyhow!("{message}")))
}

/// `K=V` flags as a map.
fn pairs(flag: &str, given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    given
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(refused(anyhow!("`{flag} {pair}`: expected `NAME=VALUE`"))),
        })
        .collect()
}

/// The time of the image when `SOURCE_DATE_EPOCH` sets one
/// (reproducible-builds.org, "SOURCE_DATE_EPOCH specification").
fn source_date_epoch() -> Result<Option<jiff::Timestamp>, Failure> {
    let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    let seconds = text
        .parse()
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok());
    match seconds {
        Some(time) => Ok(Some(time)),
        None => Err(refused(anyhow!(
            "SOURCE_DATE_EPOCH is `{text}`: expected seconds since 1970"
        ))),
    }
}

/// Where an image is written to on this machine.
struct Output {
    form: Form,
    path: Utf8PathBuf,
    tag: Option<String>,
}

enum Form {
    Directory,
    Archive,
}

fn output_of(text: &str) -> Result<Output, Failure> {
    let layout = |form, text: &str| -> Result<Option<Output>, Failure> {
        Ok(match Place::parse(text)? {
            Place::Layout { dir: path, tag } => Some(Output { form, path, tag }),
            Place::Registry(_) => None,
        })
    };
    let found = match text.strip_prefix("oci-archive:") {
        Some(rest) => layout(Form::Archive, &format!("oci:{rest}"))?,
        None => layout(Form::Directory, text)?,
    };
    found.ok_or_else(|| {
        refused(anyhow!(
            "`--output {text}`: expected `oci:DIR[:TAG]` or `oci-archive:FILE[:TAG]`"
        ))
    })
}

/// What must be corrected by the user ends with 1; what the machine could not do with 2.
fn failure(error: BuildError) -> Failure {
    match error {
        BuildError::Step { .. }
        | BuildError::Syntax { .. }
        | BuildError::Base { .. }
        | BuildError::BaseInvalid { .. }
        | BuildError::Push { .. } => refused(error),
        BuildError::Cancelled => unexpected("the build was cancelled"),
        BuildError::Host { .. } => error.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pairs_need_a_name_and_a_value() {
        let given = ["A=1".to_owned(), "B=x=y".to_owned(), "C=".to_owned()];
        let pairs = pairs("--build-arg", &given).unwrap();
        assert_eq!(pairs["B"], "x=y");
        assert_eq!(pairs["C"], "");
        for bad in ["A", "=1"] {
            assert!(
                super::pairs("--build-arg", &[bad.to_owned()]).is_err(),
                "{bad}"
            );
        }
    }
}
