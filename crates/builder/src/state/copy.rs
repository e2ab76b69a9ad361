//! What `COPY` and `ADD` mean in their place.

use super::{Chmod, CopyAction, CopySource, State, Unpack};
use crate::containerfile::{Copy, Problem, Source, Word, expand_text};
use crate::remote;

impl State {
    pub(super) fn copy(&self, copy: &Copy) -> Result<CopyAction, Problem> {
        let mut sources = Vec::new();
        for source in &copy.sources {
            sources.push(match source {
                Source::Path(word) if copy.add => self.source(copy, word)?,
                Source::Path(word) => CopySource::Path(self.expand(word)?),
                Source::Heredoc(heredoc) => {
                    let text = heredoc.text();
                    let content = match heredoc.expand {
                        true => expand_text(&text, &|name| self.lookup(name), self.escape)
                            .map_err(|error| Problem::new(heredoc.at, error.to_string()))?,
                        false => text,
                    };
                    CopySource::Inline {
                        name: heredoc.name.clone(),
                        content,
                    }
                }
            });
        }
        let raw = self.expand(&copy.dest)?;
        let mut dest = self.absolute(&copy.dest, "destination")?;
        let directory = raw.ends_with('/') || raw == "." || raw.ends_with("/.");
        if directory && !dest.ends_with('/') {
            dest.push('/');
        }
        if sources.len() > 1 && !dest.ends_with('/') {
            let problem = Problem::new(
                copy.dest.at,
                "with several sources the destination must end with `/`",
            );
            return Err(problem);
        }
        let chmod = copy
            .chmod
            .as_ref()
            .map(|word| self.chmod(word))
            .transpose()?;
        if let Some(word) = &copy.checksum
            && !matches!(
                sources.as_slice(),
                [CopySource::Url { .. } | CopySource::Git(_)]
            )
        {
            let message = "`--checksum`: expected one remote source";
            return Err(Problem::new(word.at, message));
        }
        Ok(CopyAction {
            unpack: match copy.unpack {
                Some(true) => Unpack::All,
                None => Unpack::Local,
                Some(false) => Unpack::None,
            },
            from: copy.from.clone(),
            sources,
            dest,
            chown: copy
                .chown
                .as_ref()
                .map(|word| self.expand(word))
                .transpose()?,
            chmod,
            exclude: copy
                .exclude
                .iter()
                .map(|word| self.expand(word))
                .collect::<Result<_, _>>()?,
            parents: copy.parents,
        })
    }

    fn chmod(&self, word: &Word) -> Result<Chmod, Problem> {
        let text = self.expand(word)?;
        Chmod::parse(&text).ok_or_else(|| {
            let message =
                format!("`--chmod`: expected a mode such as 0755 or u+x,go-w, found `{text}`");
            Problem::new(word.at, message)
        })
    }

    /// A source of `ADD`: a path, a URL or a git repository.
    fn source(&self, copy: &Copy, word: &Word) -> Result<CopySource, Problem> {
        let text = self.expand(word)?;
        let checksum = copy
            .checksum
            .as_ref()
            .map(|word| Ok::<_, Problem>((word.at, self.expand(word)?)))
            .transpose()?;
        let problem = |message: String| Problem::new(word.at, message);
        if let Some(mut git) = remote::git(&text).map_err(problem)? {
            git.keep_git_dir = copy.keep_git_dir;
            git.checksum = checksum.map(|(_, text)| text);
            return Ok(CopySource::Git(git));
        }
        if !remote::is_url(&text) {
            return Ok(CopySource::Path(text));
        }
        let checksum = checksum
            .map(|(at, text)| {
                text.parse().map_err(|_| {
                    let message = format!(
                        "`--checksum`: expected `sha256:` and 64 hexadecimal digits, found `{text}`"
                    );
                    Problem::new(at, message)
                })
            })
            .transpose()?;
        Ok(CopySource::Url {
            name: remote::file_name(&text),
            url: text,
            checksum,
        })
    }
}

impl CopyAction {
    /// A copy of everything at a path.
    pub(crate) fn everything_at(source: &str) -> CopyAction {
        CopyAction {
            unpack: Unpack::None,
            from: None,
            sources: vec![CopySource::Path(source.to_string())],
            dest: "/".into(),
            chown: None,
            chmod: None,
            exclude: Vec::new(),
            parents: false,
        }
    }
}
