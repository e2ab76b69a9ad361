//! What `RUN` means in its place.

use std::collections::BTreeMap;

use super::{
    Access, CacheMount, DEFAULT_PATH, MountAction, MountSource, PROXIES, RunAction, State,
};
use crate::containerfile::{Command, Mount, MountKind, Network, Owner, Problem, Run, Word};

impl State {
    pub(super) fn run(&self, run: &Run) -> Result<RunAction, Problem> {
        let (args, script) = match (&run.command, run.heredocs.as_slice()) {
            (Command::Shell(text), [heredoc])
                if is_marker(text) && heredoc.content.starts_with("#!") =>
            {
                (Vec::new(), Some(heredoc.text()))
            }
            (Command::Shell(text), [heredoc]) if is_marker(text) => (
                self.arguments(&Command::Shell(heredoc.text()))
                    .unwrap_or_default(),
                None,
            ),
            (Command::Shell(text), heredocs) => {
                // The shell reads here-documents itself.
                let mut text = text.clone();
                for heredoc in heredocs {
                    text += &format!("\n{}{}", heredoc.content, heredoc.name);
                }
                (
                    self.arguments(&Command::Shell(text)).unwrap_or_default(),
                    None,
                )
            }
            (Command::Exec(args), _) => (args.clone(), None),
        };
        let mut env: BTreeMap<String, String> = self
            .args
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let own = self
            .config
            .config
            .env
            .iter()
            .filter_map(|entry| entry.split_once('='));
        env.extend(own.map(|(name, value)| (name.to_string(), value.to_string())));
        env.entry("PATH".into())
            .or_insert_with(|| DEFAULT_PATH.into());
        let proxies = self
            .build_args
            .iter()
            .filter(|(name, _)| {
                PROXIES.contains(&name.to_ascii_uppercase().as_str()) && !env.contains_key(*name)
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let mounts = run
            .mounts
            .iter()
            .enumerate()
            .map(|(number, mount)| self.mount(number, mount))
            .collect::<Result<_, _>>()?;
        let cwd = Some(self.config.config.working_dir.clone()).filter(|cwd| !cwd.is_empty());
        Ok(RunAction {
            args,
            script,
            env,
            proxies,
            user: self.config.config.user.clone(),
            cwd: cwd.unwrap_or_else(|| "/".into()),
            mounts,
            offline: run.network == Network::None,
        })
    }

    fn mount(&self, number: usize, mount: &Mount) -> Result<MountAction, Problem> {
        let target = mount
            .target
            .as_ref()
            .map(|word| self.absolute(word, "`--mount`: field `target`"))
            .transpose()?;
        let text = |word: &Option<Word>| word.as_ref().map(|word| self.expand(word)).transpose();
        let access = |owner: &Owner, mode: u32| Access {
            uid: owner.uid.unwrap_or(0),
            gid: owner.gid.unwrap_or(0),
            mode: owner.mode.unwrap_or(mode),
        };
        let (default, source) = match &mount.kind {
            MountKind::Cache {
                id,
                from,
                source,
                sharing,
                owner,
            } => {
                let cache = CacheMount {
                    id: text(id)?.or_else(|| target.clone()).unwrap_or_default(),
                    sharing: *sharing,
                    from: from.clone(),
                    source: text(source)?,
                    access: access(owner, 0o755),
                };
                (String::new(), MountSource::Cache(cache))
            }
            MountKind::Bind { from, source } => {
                let bind = MountSource::Bind {
                    from: from.clone(),
                    source: text(source)?.unwrap_or_else(|| "/".into()),
                };
                (String::new(), bind)
            }
            MountKind::Tmpfs { size } => (String::new(), MountSource::Tmpfs { size: *size }),
            MountKind::Secret {
                id,
                env,
                required,
                owner,
            } => {
                let id = self.expand(id)?;
                let default = format!("/run/secrets/{id}");
                let secret = MountSource::Secret {
                    id,
                    env: env.clone(),
                    required: *required,
                    access: access(owner, 0o400),
                };
                (default, secret)
            }
            MountKind::Ssh {
                id,
                required,
                owner,
            } => {
                let socket = MountSource::Ssh {
                    id: self.expand(id)?,
                    required: *required,
                    access: access(owner, 0o600),
                };
                (format!("/run/caprock/ssh_agent.{number}"), socket)
            }
        };
        let target = target.unwrap_or(default);
        if target == "/" {
            return Err(Problem::new(
                mount.at,
                "`--mount`: field `target`: `/` cannot be mounted over",
            ));
        }
        Ok(MountAction {
            at: mount.at,
            target,
            readonly: mount.readonly,
            source,
        })
    }
}

/// Whether a command is nothing but the marker of a here-document.
fn is_marker(text: &str) -> bool {
    text.starts_with("<<")
        && !text.contains(char::is_whitespace)
        && !text.contains(['>', '|', ';', '&'])
}
