//! Judges a Containerfile without building it: what is not well-formed, and what is but will not do what its author
//! expects. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::containerfile::{
    Command, Containerfile, Instruction, Kind, Position, Problem, Run, Source, Stage, Word,
};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It builds, but probably not what was meant.
    Warning,
    /// It does not build.
    Error,
}

impl Level {
    /// The level as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// One thing to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind it is; stable, in words joined by `-`.
    pub id: &'static str,
    /// How bad it is.
    pub level: Level,
    /// Where it is.
    pub at: Position,
    /// What it is.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Everything there is to say about a Containerfile, in order of position.
///
/// A comment `# lint ignore=ID[,ID…]` on the line above an instruction leaves warnings of that kind out there; at the
/// top of the file, before anything but comments, it leaves them out everywhere.
pub fn lint(text: &str) -> Vec<Finding> {
    let mut findings = match crate::containerfile::parse(text) {
        Err(problems) => problems.into_iter().map(error).collect(),
        Ok(file) => {
            let mut lint = Lint {
                file: &file,
                findings: Vec::new(),
            };
            lint.file();
            lint.findings
        }
    };
    let silenced = Silenced::read(text);
    findings.retain(|finding| finding.level == Level::Error || !silenced.covers(finding));
    findings.sort_by_key(|finding| finding.at);
    findings
}

fn error(problem: Problem) -> Finding {
    Finding {
        id: "syntax",
        level: Level::Error,
        at: problem.at,
        message: problem.message,
        hint: problem.hint,
    }
}

/// What comments ask not to be told.
struct Silenced {
    everywhere: BTreeSet<String>,
    /// By the line that follows the comment.
    lines: BTreeMap<u32, BTreeSet<String>>,
}

impl Silenced {
    fn read(text: &str) -> Silenced {
        let mut silenced = Silenced {
            everywhere: BTreeSet::new(),
            lines: BTreeMap::new(),
        };
        let mut top = true;
        let mut pending: BTreeSet<String> = BTreeSet::new();
        for (number, line) in (1u32..).zip(text.lines()) {
            let line = line.trim();
            let Some(comment) = line.strip_prefix('#') else {
                top &= line.is_empty();
                if !line.is_empty() && !pending.is_empty() {
                    silenced.lines.insert(number, std::mem::take(&mut pending));
                }
                continue;
            };
            if let Some(ids) = comment.trim().strip_prefix("lint ignore=") {
                let ids = ids.split(',').map(|id| id.trim().to_string());
                match top {
                    true => silenced.everywhere.extend(ids),
                    false => pending.extend(ids),
                }
            }
        }
        silenced
    }

    fn covers(&self, finding: &Finding) -> bool {
        let here = self.lines.get(&finding.at.line);
        self.everywhere.contains(finding.id) || here.is_some_and(|ids| ids.contains(finding.id))
    }
}

struct Lint<'a> {
    file: &'a Containerfile,
    findings: Vec<Finding>,
}

impl Lint<'_> {
    fn warn(&mut self, id: &'static str, at: Position, message: String, hint: &str) {
        self.findings.push(Finding {
            id,
            level: Level::Warning,
            at,
            message,
            hint: Some(hint.to_string()),
        });
    }

    fn fail(&mut self, id: &'static str, at: Position, message: String, hint: &str) {
        self.warn(id, at, message, hint);
        if let Some(finding) = self.findings.last_mut() {
            finding.level = Level::Error;
        }
    }

    fn file(&mut self) {
        let file = self.file;
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, stage) in file.stages.iter().enumerate() {
            self.base(stage, index);
            if let Some(name) = &stage.name
                && names.insert(name, index).is_some()
            {
                self.warn(
                    "stage-named-twice",
                    stage.at,
                    format!("there is an earlier stage `{name}`, which this one hides"),
                    "give each stage a name of its own",
                );
            }
            self.stage(stage, index);
        }
        self.unused_stages();
        self.unused_args();
    }

    fn base(&mut self, stage: &Stage, index: usize) {
        let image = stage.image.raw.as_str();
        let at = stage.image.at;
        let stage_before = self.file.stages[..index]
            .iter()
            .any(|other| other.name.as_deref() == Some(&image.to_lowercase()));
        for name in variables(image) {
            let declared = self.file.args.iter().find(|arg| arg.name == name);
            match declared {
                None if !is_automatic(&name) => self.fail(
                    "undefined-arg-in-from",
                    at,
                    format!("`FROM`: no `ARG {name}` stands before the first `FROM`"),
                    "declare it above the first `FROM`; `ARG`s of stages do not count here",
                ),
                _ => {}
            }
        }
        // `configs` is what pools build on: the base image with their configuration.
        let named = ["scratch", "configs"].contains(&image);
        if stage_before || named || image.contains(['$', '@']) {
            return;
        }
        let name = image.rsplit('/').next().unwrap_or(image);
        match name.split_once(':') {
            None => self.warn(
                "untagged-base",
                at,
                format!("base image `{image}` has no tag: what `latest` is changes"),
                "name a version, or a digest for the same image every time",
            ),
            Some((_, "latest")) => self.warn(
                "untagged-base",
                at,
                format!("base image `{image}` changes without notice"),
                "name a version, or a digest for the same image every time",
            ),
            Some(_) => {}
        }
    }

    fn stage(&mut self, stage: &Stage, index: usize) {
        let mut last: BTreeMap<&'static str, Position> = BTreeMap::new();
        let mut known: BTreeSet<String> = BTreeSet::new();
        let mut workdir_set = false;
        for instruction in &stage.instructions {
            let at = instruction.at;
            for (kind, id) in [
                ("CMD", "overridden-cmd"),
                ("ENTRYPOINT", "overridden-entrypoint"),
                ("HEALTHCHECK", "overridden-healthcheck"),
            ] {
                let same = matches!(
                    (&instruction.kind, kind),
                    (Kind::Cmd(_), "CMD")
                        | (Kind::Entrypoint(_), "ENTRYPOINT")
                        | (Kind::Healthcheck(_), "HEALTHCHECK")
                );
                if same && let Some(earlier) = last.insert(kind, at) {
                    self.warn(
                        id,
                        earlier,
                        format!(
                            "`{kind}` has no effect: the one in line {} takes its place",
                            at.line
                        ),
                        "remove one of them",
                    );
                }
            }
            match &instruction.kind {
                Kind::Arg(decls) => {
                    known.extend(decls.iter().map(|decl| decl.name.clone()));
                    for decl in decls {
                        self.secret(&decl.name, decl.at, "ARG");
                    }
                }
                Kind::Env(pairs) => {
                    for (key, _) in pairs {
                        known.insert(key.raw.clone());
                        self.secret(&key.raw, key.at, "ENV");
                    }
                }
                Kind::Workdir(word) => {
                    let relative = !word.raw.starts_with(['/', '$', '"', '\'']);
                    if relative && !workdir_set {
                        self.warn(
                            "relative-workdir",
                            word.at,
                            format!("`WORKDIR {}` depends on the base image's", word.raw),
                            "write an absolute path",
                        );
                    }
                    workdir_set = true;
                }
                Kind::Maintainer(_) => self.warn(
                    "maintainer",
                    at,
                    "`MAINTAINER` is deprecated".into(),
                    "write `LABEL org.opencontainers.image.authors=…`",
                ),
                Kind::Run(run) => self.run(run, instruction),
                Kind::Cmd(command) | Kind::Entrypoint(command) => {
                    self.command(command, instruction)
                }
                Kind::Copy(copy) => {
                    self.copied_from(copy.from.as_ref(), index);
                    if copy.add && copy.checksum.is_none() {
                        self.added(&copy.sources);
                    }
                }
                _ => {}
            }
            self.keyword(instruction);
            self.variables(instruction, &known);
        }
    }

    fn secret(&mut self, name: &str, at: Position, keyword: &str) {
        const WORDS: [&str; 6] = ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "APIKEY", "API_KEY"];
        let upper = name.to_ascii_uppercase();
        if WORDS.iter().any(|word| upper.contains(word)) && !upper.ends_with("_FILE") {
            self.warn(
                "secret-in-image",
                at,
                format!("`{keyword} {name}`: values of `{keyword}` can be read from the image"),
                "use `RUN --mount=type=secret`",
            );
        }
    }

    fn run(&mut self, run: &Run, instruction: &Instruction) {
        let at = instruction.at;
        let text = match &run.command {
            Command::Exec(_) => return,
            Command::Shell(text) => {
                self.json(text, at);
                let documents: Vec<&str> = run
                    .heredocs
                    .iter()
                    .map(|doc| doc.content.as_str())
                    .collect();
                format!("{text}\n{}", documents.join("\n"))
            }
        };
        let first = text.split_whitespace().next().unwrap_or_default();
        if first == "cd"
            && !text.contains("&&")
            && !text.contains(';')
            && !text.trim().contains('\n')
        {
            self.warn(
                "lost-cd",
                at,
                "`cd` has no effect on the steps that follow".into(),
                "use `WORKDIR`",
            );
        }
        let commands = commands(&text);
        let is = |command: &[&str], words: &[&str]| command.starts_with(words);
        for command in &commands {
            let command: Vec<&str> = command
                .split_whitespace()
                .skip_while(|word| word.contains('='))
                .collect();
            let installs = command.contains(&"install");
            let yes = command.iter().any(|word| {
                matches!(
                    *word,
                    "--yes" | "--assumeyes" | "--assume-yes" | "--non-interactive"
                ) || short_y(word)
            });
            if command.first() == Some(&"sudo") {
                self.warn(
                    "sudo",
                    at,
                    "`sudo` in a `RUN`".into(),
                    "steps run as root unless `USER` says otherwise",
                );
            }
            if matches!(
                command.first(),
                Some(&("apt-get" | "apt" | "dnf" | "yum" | "microdnf" | "zypper"))
            ) && installs
                && !yes
            {
                self.warn(
                    "install-asks",
                    at,
                    format!(
                        "`{} install` asks a question that nobody answers",
                        command[0]
                    ),
                    "add `-y`",
                );
            }
            if command.first() == Some(&"systemctl")
                && command
                    .iter()
                    .any(|word| matches!(*word, "start" | "restart" | "daemon-reload" | "--now"))
            {
                self.warn(
                    "no-systemd",
                    at,
                    "nothing is started while an image is built: there is no systemd".into(),
                    "`systemctl enable` without `--now` takes effect when the image boots",
                );
            }
            if is(&command, &["rpm-ostree", "install"])
                && !text.contains("ostree container commit")
                && !text.contains("rpm-ostree cleanup")
            {
                self.warn(
                    "left-over-cache",
                    at,
                    "`rpm-ostree install` leaves its cache in the image".into(),
                    "end the step with `&& ostree container commit`",
                );
            }
        }
        let updates = commands
            .iter()
            .any(|command| command.contains("apt-get update") || command.contains("apt update"));
        let installs = commands
            .iter()
            .any(|command| command.contains("apt-get install") || command.contains("apt install"));
        if updates && !installs {
            self.warn(
                "update-alone",
                at,
                "the package index of a cached `apt-get update` grows old".into(),
                "update and install in one `RUN`",
            );
        }
    }

    /// A list that was meant to be JSON.
    fn json(&mut self, text: &str, at: Position) {
        let text = text.trim();
        if text.starts_with('[')
            && text.ends_with(']')
            && text.contains([',', '\'', '"'])
            && !text.starts_with("[[")
            && !text.starts_with("[ ")
        {
            self.warn(
                "not-json",
                at,
                "this looks like a list of arguments but is not JSON, so the shell runs it".into(),
                "put each argument into double quotes, with commas between them",
            );
        }
    }

    fn command(&mut self, command: &Command, instruction: &Instruction) {
        if let Command::Shell(text) = command {
            self.json(text, instruction.at);
        }
    }

    fn copied_from(&mut self, from: Option<&Word>, index: usize) {
        let Some(word) = from else { return };
        let name = word.raw.to_lowercase();
        let later = self.file.stages[index..]
            .iter()
            .any(|stage| stage.name.as_deref() == Some(&name));
        let earlier = self.file.stages[..index]
            .iter()
            .any(|stage| stage.name.as_deref() == Some(&name));
        if later && !earlier {
            self.fail(
                "later-stage",
                word.at,
                format!(
                    "`--from`: stage `{}` does not stand before this one",
                    word.raw
                ),
                "move it up, or correct the name",
            );
        }
        if let Ok(number) = name.parse::<usize>()
            && number >= index
        {
            self.fail(
                "later-stage",
                word.at,
                format!("`--from`: there is no stage {number} before this one"),
                "stages are counted from 0",
            );
        }
    }

    fn added(&mut self, sources: &[Source]) {
        for source in sources {
            if let Source::Path(word) = source
                && crate::remote::is_url(&word.raw)
                && !matches!(crate::remote::git(&word.raw), Ok(Some(_)))
            {
                self.warn(
                    "unchecked-download",
                    word.at,
                    format!("`{}` is taken as it comes", word.raw),
                    "add `--checksum=sha256:…`",
                );
            }
        }
    }

    /// A keyword in neither upper nor lower case only.
    fn keyword(&mut self, instruction: &Instruction) {
        let keyword = instruction
            .text
            .split_whitespace()
            .next()
            .unwrap_or_default();
        if keyword != keyword.to_uppercase() && keyword != keyword.to_lowercase() {
            self.warn(
                "keyword-case",
                instruction.at,
                format!("`{keyword}` is written in mixed case"),
                "write keywords in capitals",
            );
        }
    }

    /// Variables that nothing in the file sets. The base image may, so only those that a stage before declared count.
    fn variables(&mut self, instruction: &Instruction, known: &BTreeSet<String>) {
        let words: Vec<&Word> = match &instruction.kind {
            Kind::Copy(copy) => {
                let paths = copy.sources.iter().filter_map(|source| match source {
                    Source::Path(word) => Some(word),
                    Source::Heredoc(_) => None,
                });
                paths.chain([&copy.dest]).collect()
            }
            Kind::Workdir(word) | Kind::User(word) => vec![word],
            _ => return,
        };
        for word in words {
            for name in variables(&word.raw) {
                let global = self.file.args.iter().any(|arg| arg.name == name);
                if !known.contains(&name) && (global || is_automatic(&name)) {
                    self.warn(
                        "arg-not-in-stage",
                        word.at,
                        format!("`${name}` is empty here: an `ARG` before the first `FROM` is not seen in stages"),
                        "repeat `ARG NAME` after `FROM`",
                    );
                }
            }
        }
    }

    fn unused_stages(&mut self) {
        let file = self.file;
        let Some((_, others)) = file.stages.split_last() else {
            return;
        };
        for (index, stage) in others.iter().enumerate() {
            let Some(name) = &stage.name else { continue };
            let used = file.stages[index + 1..].iter().any(|later| {
                let mentions = |word: &Word| {
                    let raw = word.raw.to_lowercase();
                    raw == *name || raw == index.to_string() || raw.contains('$')
                };
                mentions(&later.image) || crate::stages::sources(later).any(mentions)
            });
            if !used {
                self.warn(
                    "unused-stage",
                    stage.at,
                    format!("no later stage uses `{name}`: it is not built"),
                    "remove it, or build it with `--target`",
                );
            }
        }
    }

    fn unused_args(&mut self) {
        for arg in &self.file.args {
            let needle = &arg.name;
            let in_from = self.file.stages.iter().any(|stage| {
                let platform = stage.platform.as_ref().map_or("", |word| word.raw.as_str());
                variables(&stage.image.raw).contains(needle) || variables(platform).contains(needle)
            });
            let in_args = self.file.args.iter().any(|other| {
                other
                    .default
                    .as_ref()
                    .is_some_and(|word| variables(&word.raw).contains(needle))
            });
            let repeated = self.file.stages.iter().any(|stage| {
                let declares = |instruction: &Instruction| match &instruction.kind {
                    Kind::Arg(decls) => decls.iter().any(|decl| decl.name == *needle),
                    Kind::Copy(copy) => copy
                        .from
                        .as_ref()
                        .is_some_and(|word| variables(&word.raw).contains(needle)),
                    _ => false,
                };
                stage.instructions.iter().any(declares)
            });
            if !(in_from || in_args || repeated) {
                self.warn(
                    "unused-arg",
                    arg.at,
                    format!("`ARG {needle}` is used by no `FROM` and no stage"),
                    "stages see it only after an `ARG` of their own",
                );
            }
        }
    }
}

/// Whether a name is set by the builder.
fn is_automatic(name: &str) -> bool {
    ["TARGET", "BUILD"].iter().any(|prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| matches!(rest, "PLATFORM" | "OS" | "ARCH" | "VARIANT"))
    })
}

/// The names of variables in a word, quotes and escapes left aside.
fn variables(word: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        let escaped = rest[..at].ends_with('\\');
        rest = &rest[at + 1..];
        let body = rest.strip_prefix('{').unwrap_or(rest);
        let end = body
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(body.len());
        // A default makes a variable that is not set harmless.
        let defaulted = body[end..].starts_with([':', '-', '+']);
        if end > 0 && !escaped && !defaulted {
            names.insert(body[..end].to_string());
        }
    }
    names
}

/// The simple commands of a shell text, roughly: what lies between `&&`, `||`, `;`, `|` and line ends.
fn commands(text: &str) -> Vec<&str> {
    text.split(['\n', ';', '|', '&'])
        .map(|command| command.trim().trim_start_matches(['(', '{', ' ']))
        .filter(|command| !command.is_empty())
        .collect()
}

/// `-y`, also among other short options.
fn short_y(word: &str) -> bool {
    word.starts_with('-') && !word.starts_with("--") && word.contains('y')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let found: Vec<String> = lint(text)
            .iter()
            .map(|finding| format!("{} {}", finding.at, finding.id))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn what_is_fine_is_not_mentioned() {
        check(
            "ARG V=1\nFROM a:$V AS one\nARG V\nRUN apt-get update && apt-get install -y x\nCOPY x$V /\nFROM one\nCMD [\"x\"]",
            &[],
        );
        check(
            "FROM scratch\nCOPY . /\nRUN [ -e /x ]\nRUN [[ a = b ]]",
            &[],
        );
        check("FROM configs AS final\nRUN systemctl enable x", &[]);
        check("FROM a", &["1:6 untagged-base"]);
    }

    #[test]
    fn findings_have_a_place_and_a_kind() {
        for (steps, expected) in [
            ("MAINTAINER x", "2:1 maintainer"),
            ("RUN cd /x", "2:1 lost-cd"),
            ("RUN sudo ls", "2:1 sudo"),
            ("RUN dnf install x", "2:1 install-asks"),
            ("RUN systemctl enable --now x", "2:1 no-systemd"),
            ("RUN rpm-ostree install x", "2:1 left-over-cache"),
            ("RUN apt-get update", "2:1 update-alone"),
            ("CMD ['a', 'b']", "2:1 not-json"),
            ("WORKDIR x", "2:9 relative-workdir"),
            ("ENV DB_PASSWORD=x", "2:5 secret-in-image"),
            ("ARG API_TOKEN", "2:5 secret-in-image"),
            ("COPY --from=1 a b", "2:6 later-stage"),
            ("ADD https://x.example/a /", "2:5 unchecked-download"),
            ("Run true", "2:1 keyword-case"),
            ("CMD a\nCMD b", "2:1 overridden-cmd"),
            ("COPPY a b", "2:1 syntax"),
        ] {
            check(&format!("FROM a:1\n{steps}"), &[expected]);
        }
        check("FROM a:latest", &["1:6 untagged-base"]);
        check("FROM a:1 AS x\nFROM b:1", &["1:1 unused-stage"]);
        check("FROM $X", &["1:6 undefined-arg-in-from"]);
        check(
            "ARG X\nFROM a:1\nCOPY $X /",
            &["1:5 unused-arg", "3:6 arg-not-in-stage"],
        );
        check(
            "FROM a:1\nCOPY --from=b x /\nFROM c:1 AS b",
            &["2:6 later-stage"],
        );
    }

    #[test]
    fn comments_silence_warnings_but_no_errors() {
        check(
            "# lint ignore=untagged-base\nFROM a\nRUN cd x",
            &["3:1 lost-cd"],
        );
        check(
            "FROM a:1\n# lint ignore=lost-cd, sudo\n\nRUN cd x\nRUN cd x",
            &["5:1 lost-cd"],
        );
        check("# lint ignore=syntax\nFRM a", &["2:1 syntax"]);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(FROM|RUN|COPY|ARG|ENV|#|<<E|E|[a-z$@{}:=\\\\\"' /\n-]){0,60}") {
            lint(&text);
        }

        #[test]
        fn findings_come_in_order(text in "(FROM a\n|RUN cd x\n|MAINTAINER m\n|WORKDIR w\n){1,12}") {
            let places: Vec<_> = lint(&text).iter().map(|finding| finding.at).collect();
            prop_assert!(places.is_sorted());
        }
    }
}
