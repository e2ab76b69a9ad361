//! What a check of an image would see, small enough to keep: a later rendered config is checked against it without
//! the image at hand.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::{Entry, ImageRoot, READ_LIMIT, UNIT_DIRECTORIES};
use crate::ignition::has_install_section;

/// An image, reduced to what [`check`](super::check) looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// By absolute path.
    paths: BTreeMap<String, Fact>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fact {
    kind: Kind,
    /// Where a link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// The words of the file that the check asks about; none where no file can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Directory,
    Link,
    Other,
}

impl Facts {
    /// Looks at an image.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn gather(image: &dyn ImageRoot) -> io::Result<Self> {
        let mut facts = Facts::default();
        for directory in UNIT_DIRECTORIES {
            for name in image.list(directory)? {
                facts.add(image, &format!("{directory}/{name}"), unit_words)?;
            }
        }
        for directory in ["/etc", "/usr/lib"] {
            for database in ["passwd", "group"] {
                facts.add(image, &format!("{directory}/{database}"), account_words)?;
            }
            for name in image.list(&format!("{directory}/sysusers.d"))? {
                let path = format!("{directory}/sysusers.d/{name}");
                facts.add(image, &path, sysusers_words)?;
            }
        }
        for release in image.list("/usr/lib/modules")? {
            let kernel = format!("/usr/lib/modules/{release}/vmlinuz");
            facts.note(image, &kernel, None)?;
        }
        for path in [
            "/usr/lib/systemd/systemd",
            "/lib/systemd/systemd",
            "/sysroot",
            "/ostree",
        ] {
            facts.note(image, path, None)?;
        }
        Ok(facts)
    }

    fn add(
        &mut self,
        image: &dyn ImageRoot,
        path: &str,
        words: fn(&str) -> String,
    ) -> io::Result<()> {
        // A directory of drop-ins beside its unit has nothing to read.
        let text = match image.entry(path)? {
            Some(Entry::File | Entry::Link(_)) => image.read(path, READ_LIMIT)?,
            Some(Entry::Directory | Entry::Other) | None => None,
        };
        let text = text.map(|text| words(&String::from_utf8_lossy(&text)));
        self.note(image, path, text)
    }

    fn note(&mut self, image: &dyn ImageRoot, path: &str, text: Option<String>) -> io::Result<()> {
        let (kind, link) = match image.entry(path)? {
            None => return Ok(()),
            Some(Entry::File) => (Kind::File, None),
            Some(Entry::Directory) => (Kind::Directory, None),
            Some(Entry::Link(target)) => (Kind::Link, Some(target)),
            Some(Entry::Other) => (Kind::Other, None),
        };
        self.paths
            .insert(path.to_owned(), Fact { kind, link, text });
        Ok(())
    }
}

fn unit_words(text: &str) -> String {
    if has_install_section(text) {
        "[Install]\nWantedBy=default.target\n".to_owned()
    } else {
        String::new()
    }
}

/// Names only.
fn account_words(text: &str) -> String {
    let names = text.lines().filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| format!("{name}:\n")).collect()
}

/// Kind and name of each line.
fn sysusers_words(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().take(2).collect();
        words.join(" ")
    });
    lines
        .filter(|line| line.starts_with(['u', 'g']))
        .map(|line| line + "\n")
        .collect()
}

impl ImageRoot for Facts {
    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        Ok(self.paths.get(path).map(|fact| match fact.kind {
            Kind::File => Entry::File,
            Kind::Directory => Entry::Directory,
            Kind::Link => Entry::Link(fact.link.clone().unwrap_or_default()),
            Kind::Other => Entry::Other,
        }))
    }

    fn read(&self, path: &str, _: usize) -> io::Result<Option<Vec<u8>>> {
        let text = self.paths.get(path).and_then(|fact| fact.text.clone());
        Ok(text.map(String::into_bytes))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let below = format!("{path}/");
        let mut names: Vec<String> = self
            .paths
            .range(below.clone()..)
            .map_while(|(path, _)| path.strip_prefix(below.as_str()))
            .map(|rest| rest.split('/').next().unwrap_or_default().to_owned())
            .collect();
        names.dedup();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ignition;
    use crate::image_check::check;
    use crate::render::Provenance;
    use serde_json::json;

    /// Files by path, with their text.
    struct Tree(BTreeMap<&'static str, (Entry, &'static str)>);

    impl ImageRoot for Tree {
        fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
            Ok(self.0.get(path).map(|(entry, _)| entry.clone()))
        }

        fn read(&self, path: &str, _: usize) -> io::Result<Option<Vec<u8>>> {
            assert!(
                !path.contains("vmlinuz"),
                "kernels are larger than any limit"
            );
            Ok(self.0.get(path).map(|(_, text)| text.as_bytes().to_vec()))
        }

        fn list(&self, path: &str) -> io::Result<Vec<String>> {
            let below = format!("{path}/");
            let rest = self
                .0
                .keys()
                .filter_map(|key| key.strip_prefix(below.as_str()));
            let mut names: Vec<String> = rest
                .map(|rest| rest.split('/').next().unwrap().to_owned())
                .collect();
            names.dedup();
            Ok(names)
        }
    }

    fn image() -> Tree {
        let file = |text| (Entry::File, text);
        Tree(BTreeMap::from([
            (
                "/usr/lib/systemd/system/autofs.service",
                file("[Unit]\n[Install]\nWantedBy=a\n"),
            ),
            ("/usr/lib/systemd/system/static.service", file("[Unit]\n")),
            (
                "/etc/systemd/system/off.service",
                (Entry::Link("/dev/null".to_owned()), ""),
            ),
            ("/etc/passwd", file("root:x:0:0::/root:/bin/sh\n")),
            (
                "/usr/lib/sysusers.d/a.conf",
                file("# comment\nu  daemon 5\n"),
            ),
            ("/usr/lib/modules/6.1/vmlinuz", file("kernel")),
            ("/usr/lib/systemd/systemd", file("")),
            ("/sysroot", (Entry::Directory, "")),
            ("/ostree", (Entry::Link("sysroot/ostree".to_owned()), "")),
        ]))
    }

    #[test]
    fn a_check_of_the_facts_says_what_a_check_of_the_image_says() {
        let units = [
            "autofs.service",
            "static.service",
            "off.service",
            "no.service",
        ];
        let units: Vec<_> = units
            .iter()
            .map(|name| json!({"name": name, "enabled": true}))
            .collect();
        let files: Vec<_> = ["root", "daemon", "nobody-knows"]
            .iter()
            .map(|user| json!({"path": format!("/etc/{user}"), "user": {"name": user}, "contents": {"source": "data:,"}}))
            .collect();
        let config = ignition::parse(&json!({
            "ignition": {"version": "3.4.0"},
            "systemd": {"units": units},
            "storage": {"files": files},
        }))
        .unwrap();
        let of_image = check(&config, &Provenance::default(), &image()).unwrap();
        let facts = Facts::gather(&image()).unwrap();
        let kept: Facts = serde_json::from_str(&serde_json::to_string(&facts).unwrap()).unwrap();
        assert_eq!(
            check(&config, &Provenance::default(), &kept).unwrap(),
            of_image
        );
        assert_eq!(of_image.len(), 4, "{of_image:?}");
    }

    #[test]
    fn facts_hold_names_and_nothing_else_of_accounts() {
        let facts = serde_json::to_string(&Facts::gather(&image()).unwrap()).unwrap();
        assert!(
            facts.contains("root:") && !facts.contains("/bin/sh"),
            "{facts}"
        );
    }
}
