//! `caprock build`: an image from a Containerfile, with the same builder that the controllers use.

use std::collections::BTreeMap;
use std::sync::Mutex;

use anyhow::{Context, anyhow};
use builder::{
    BuildError, Destination, Engine, EngineConfig, Event, Image, NamedContext, Request, Transfer,
};
use camino::{Utf8Path, Utf8PathBuf};
use indicatif::{ProgressBar, ProgressStyle};
use oci::Reference;
use tokio_util::sync::CancellationToken;

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
    let layout = args.output.as_deref().map(layout_of).transpose()?;
    let client = registry::client(&args.registry, &tags.iter().collect::<Vec<_>>())?;
    let mut request = request(&args)?;
    if args.push {
        let to = |reference: &Reference| Destination {
            reference: reference.clone(),
            client: client.clone(),
        };
        request.destinations = tags.iter().map(to).collect();
    }
    let engine = Engine::open(EngineConfig {
        cache_dir: args.cache_dir.clone().into_std_path_buf(),
        runtime: None,
        client,
    })
    .map_err(failure)?;

    let cancel = CancellationToken::new();
    let shown = Shown::new();
    let work = async {
        let image = engine
            .build(request, cancel.clone(), &|event| shown.event(event))
            .await
            .map_err(failure)?;
        deliver(
            &engine,
            &image,
            args.push.then_some(tags.as_slice()),
            layout.as_ref(),
            &shown,
        )
        .await?;
        Ok::<_, Failure>(image)
    };
    tokio::pin!(work);
    let image = tokio::select! {
        done = &mut work => done,
        signal = crate::host::stop_signal() => {
            output::words(&format!("stopping on {}\n", signal?));
            // The steps that run are killed and cleaned up before this returns.
            cancel.cancel();
            work.await
        }
    }?;
    if let Some(path) = &args.iidfile {
        std::fs::write(path, image.digest().to_string())
            .with_context(|| format!("failed to write `{path}`"))?;
    }
    Ok(output::result(&format!("{}\n", image.digest()))?)
}

async fn deliver(
    engine: &Engine,
    image: &Image,
    push: Option<&[Reference]>,
    layout: Option<&(Utf8PathBuf, Option<String>)>,
    shown: &Shown,
) -> Result<(), Failure> {
    if let Some((dir, tag)) = layout {
        engine
            .write_layout(image, dir.as_std_path(), tag.as_deref(), &|event| {
                shown.event(event)
            })
            .await
            .map_err(failure)?;
        output::words(&format!("wrote {dir}\n"));
    }
    for tag in push.unwrap_or_default() {
        engine
            .push(image, tag, &|event| shown.event(event))
            .await
            .map_err(failure)?;
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
            .map(|(name, dir)| (name, NamedContext::Dir(dir.into())))
            .collect(),
        build_args: pairs("--build-arg", &args.build_arg)?,
        target: args.target.clone(),
        no_cache: args.no_cache,
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

fn layout_of(text: &str) -> Result<(Utf8PathBuf, Option<String>), Failure> {
    match Place::parse(text)? {
        Place::Layout { dir, tag } => Ok((dir, tag)),
        Place::Registry(_) => Err(refused(anyhow!(
            "`--output {text}`: expected `oci:DIR[:TAG]`"
        ))),
    }
}

/// What must be corrected by the user ends with 1; what the machine could not do with 2.
fn failure(error: BuildError) -> Failure {
    match error {
        BuildError::Step { ref tail, .. } => {
            let tail = tail.join("\n");
            let failure = refused(error);
            if tail.is_empty() {
                failure
            } else {
                failure.hint(format!("its last lines were\n{tail}"))
            }
        }
        BuildError::Syntax { .. }
        | BuildError::Base { .. }
        | BuildError::BaseInvalid { .. }
        | BuildError::Push { .. } => refused(error),
        BuildError::Cancelled => unexpected("the build was cancelled"),
        BuildError::Host { .. } => error.into(),
    }
}

/// Progress for a person: a bar for transfers on a terminal, plain lines otherwise.
struct Shown {
    bar: Mutex<Option<ProgressBar>>,
}

impl Shown {
    fn new() -> Self {
        Shown {
            bar: Mutex::new(None),
        }
    }

    fn event(&self, event: Event) {
        match event {
            Event::StepStarted { step, steps, text } => {
                self.line(&format!("[{step}/{steps}] {text}"))
            }
            Event::Cached { step } => self.line(&format!("[{step}] cached")),
            Event::Output { line, .. } => self.line(&format!("    {line}")),
            Event::StepDone { .. } => {}
            Event::Bytes {
                transfer,
                blob,
                done,
                total,
            } => self.bytes(transfer, &blob, done, total),
        }
    }

    fn line(&self, text: &str) {
        match &*self
            .bar
            .lock()
            .expect("nothing panics while it holds the bar")
        {
            Some(bar) => bar.println(text),
            None => output::words(&format!("{text}\n")),
        }
    }

    fn bytes(&self, transfer: Transfer, blob: &str, done: u64, total: u64) {
        let verb = match transfer {
            Transfer::Fetch => "fetching",
            Transfer::Push => "pushing",
        };
        let mut bar = self
            .bar
            .lock()
            .expect("nothing panics while it holds the bar");
        let shown = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}");
            ProgressBar::new(total)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        // A digest's first digits tell blobs apart.
        let short: String = blob
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect();
        shown.set_message(format!("{verb} {short}"));
        shown.set_length(total);
        shown.set_position(done);
        if done >= total {
            shown.finish_and_clear();
            *bar = None;
        }
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
