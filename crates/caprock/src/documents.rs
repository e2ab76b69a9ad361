//! Holds what people read to what there is: links lead somewhere, commands can be typed, the code map names all code.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::Cli;

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names of the folders of a folder, `target` and hidden ones left out.
fn folders(path: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(path)).unwrap();
    let folders = entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && name != "target");
    folders.collect()
}

/// Every document that is not about one crate, by its path.
fn documents() -> BTreeMap<String, String> {
    fn below(path: &str, found: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(root().join(path)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let file = format!("{path}/{name}");
            if name.ends_with(".md") {
                found.insert(file.clone(), read(&file));
            }
        }
        for folder in folders(path) {
            below(&format!("{path}/{folder}"), found);
        }
    }
    let mut found = BTreeMap::new();
    for name in ["README.md", "ARCHITECTURE.md"] {
        found.insert(name.to_owned(), read(name));
    }
    for folder in ["docs", "examples", "demo", "bench", "deploy"] {
        below(folder, &mut found);
    }
    found
}

/// The lines of a document that are prose, and those that are inside of fences.
fn parted(text: &str) -> (Vec<&str>, Vec<&str>) {
    let mut fenced = false;
    let mut parts = (Vec::new(), Vec::new());
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            parts.1.push(line);
        } else {
            parts.0.push(line);
        }
    }
    assert!(!fenced, "a fence that nobody closes");
    parts
}

/// What is between backticks, and the rest.
fn spans(prose: &[&str]) -> (Vec<String>, String) {
    let text = prose.join("\n");
    let mut code = Vec::new();
    let mut rest = String::new();
    for (index, part) in text.split('`').enumerate() {
        match index % 2 {
            0 => rest.push_str(part),
            _ => code.push(part.replace('\n', " ")),
        }
    }
    (code, rest)
}

/// The name that a heading is linked by.
fn anchor(title: &str) -> String {
    let title = title.trim().to_lowercase();
    let kept = title.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        letter => letter.is_alphanumeric().then_some(letter),
    });
    kept.collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let (prose, _) = parted(text);
    let headings = prose
        .into_iter()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')));
    headings.collect()
}

#[test]
fn links_lead_somewhere() {
    let documents = documents();
    let mut astray = Vec::new();
    for (path, text) in &documents {
        let (_, prose) = spans(&parted(text).0);
        let links = prose
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(path).parent().unwrap();
            let target = match file {
                "" => root().join(path),
                file => root().join(folder).join(file),
            };
            let leads = match heading {
                "" => target.exists(),
                heading => std::fs::read_to_string(&target)
                    .is_ok_and(|text| anchors(&text).contains(heading)),
            };
            if !leads {
                astray.push(format!("{path}: {link}"));
            }
        }
    }
    assert!(astray.is_empty(), "these lead nowhere: {astray:#?}");
}

/// The commands of a line of a shell, each as words; what a shell does with their output is left out.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word = String::new();
    let mut quote = None;
    let mut redirected = false;
    for letter in line.chars().chain([' ']) {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (Some(_), letter) => word.push(letter),
            (None, '#') if word.is_empty() => break,
            (None, ' ' | '|' | ';' | '&' | '>' | '<') => {
                // The number of a descriptor belongs to what follows.
                let descriptor = matches!(letter, '>' | '<') && word == "2";
                if !word.is_empty() && !descriptor && !std::mem::take(&mut redirected) {
                    commands.last_mut().unwrap().push(word.clone());
                }
                word.clear();
                match letter {
                    '|' | ';' | '&' => commands.push(Vec::new()),
                    '>' | '<' => redirected = true,
                    _ => {}
                }
            }
            (None, letter) => word.push(letter),
        }
    }
    commands.retain(|words| !words.is_empty());
    commands
}

#[test]
fn a_line_of_a_shell_is_taken_apart() {
    let line = "a b 'c d' >x 2>y | e --f=\"g h\" && i <j # k";
    let expected = [vec!["a", "b", "c d"], vec!["e", "--f=g h"], vec!["i"]];
    assert_eq!(commands(line), expected);
}

/// What the command line says to a command of ours; nothing to one of others.
fn refusal(words: &[String]) -> Option<clap::Error> {
    let program = words.first()?;
    let ours = program == "caprock" || program.ends_with("/caprock");
    let error = Cli::try_parse_from(ours.then_some(words)?).err()?;
    let answered = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion];
    (!answered.contains(&error.kind())).then_some(error)
}

#[test]
fn commands_can_be_typed_as_they_are_written() {
    let mut refused = Vec::new();
    let mut seen = 0;
    for (path, text) in documents() {
        let (prose, fenced) = parted(&text);
        let fenced = fenced.join("\n").replace("\\\n", " ");
        let lines = fenced.lines().map(|line| line.trim_start_matches("$ "));
        for words in lines.flat_map(commands) {
            seen += usize::from(words[0] == "caprock");
            if let Some(error) = refusal(&words) {
                refused.push(format!("{path}: {words:?}: {error}"));
            }
        }
        // In prose a command may be cut short, but not have what there is not.
        for words in spans(&prose).0.iter().flat_map(|span| commands(span)) {
            if let Some(error) = refusal(&words)
                && matches!(
                    error.kind(),
                    ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand
                )
            {
                refused.push(format!("{path}: {words:?}: {error}"));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(seen > 30, "commands are not found any more: {seen}");
}

#[test]
fn the_code_map_names_every_crate_and_folder() {
    let map = read("ARCHITECTURE.md");
    let crates = folders("crates");
    let crates = crates.iter().map(|name| format!("| `crates/{name}` |"));
    let others = folders(".").into_iter().filter(|name| name != "crates");
    let missing: Vec<String> = crates
        .chain(others.map(|name| format!("`{name}/`")))
        .filter(|named| !map.contains(named))
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md lacks {missing:?}");
}
