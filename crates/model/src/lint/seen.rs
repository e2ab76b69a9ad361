//! Manifests as rules look at them: objects with their places, and what belongs together.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::rc::Rc;

use serde_json::Value;

use super::tree::{self, Located};
use super::{Embedded, Place};
use crate::api::{MachineConfig, MachineConfigPool, MachineOSConfig};
use crate::ignition::{self, Config, Node, Unit, normalised};
use crate::manifest::{self, Object, ObjectProblem, Read};
use crate::problem::Problem;
use crate::{keys, selector};

/// Everything that was given.
#[derive(Debug)]
pub(super) struct Seen<'t> {
    /// Texts that are no YAML: which, where, and why.
    pub(super) broken: Vec<(usize, Place, String)>,
    /// The objects, in order.
    pub(super) items: Vec<Item<'t>>,
}

/// An object, or what was meant to be one.
#[derive(Debug)]
pub(super) struct Item<'t> {
    /// Which of the texts it is in.
    pub(super) text: usize,
    /// Kind and name.
    pub(super) label: String,
    /// What an API server says about it.
    pub(super) object: Result<Object, Vec<ObjectProblem>>,
    /// The Ignition config of a MachineConfig.
    config: Option<Result<Config, Vec<Problem>>>,
    ignored: BTreeSet<String>,
    lines: Rc<[&'t str]>,
    root: Root,
}

/// The document of an object, and where in it the object is.
#[derive(Debug, Clone)]
struct Root {
    document: Rc<Located>,
    prefix: String,
}

/// A file of a MachineConfig.
#[derive(Debug, Clone)]
pub(super) struct File<'s, 't> {
    pub(super) item: &'s Item<'t>,
    /// Its field, such as `spec.config.storage.files[0]`.
    pub(super) field: String,
    pub(super) node: &'s Node,
}

impl File<'_, '_> {
    /// Its content; what is not text has odd characters.
    pub(super) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.node.contents().unwrap_or_default())
    }

    /// Where its content stands.
    pub(super) fn contents_field(&self) -> String {
        format!("{}.contents.source", self.field)
    }
}

/// A unit of a MachineConfig.
#[derive(Debug)]
pub(super) struct UnitOf<'s, 't> {
    pub(super) item: &'s Item<'t>,
    /// Its field, such as `spec.config.systemd.units[0]`.
    pub(super) field: String,
    pub(super) unit: &'s Unit,
}

/// A pool with what it is made from, as far as that was given.
#[derive(Debug)]
pub(super) struct Pool<'s, 't> {
    pub(super) name: &'s str,
    pub(super) configs: Vec<&'s Item<'t>>,
    pub(super) image: Option<(&'s Item<'t>, &'s MachineOSConfig)>,
}

impl<'t> Seen<'t> {
    pub(super) fn read(texts: &[&'t str]) -> Self {
        let mut seen = Seen {
            broken: Vec::new(),
            items: Vec::new(),
        };
        for (index, text) in texts.iter().enumerate() {
            let start = Place { line: 1, column: 1 };
            let trees: Vec<Located> = match manifest::yaml(text) {
                Ok(trees) => trees,
                Err(error) => {
                    let at = error.location().map_or(start, tree::of);
                    seen.broken.push((index, at, error.to_string()));
                    continue;
                }
            };
            let trees: Vec<_> = trees.into_iter().map(Rc::new).collect();
            match manifest::each(text) {
                Ok(objects) => {
                    let lines: Rc<[&str]> = text.lines().collect();
                    for read in objects {
                        let Some(document) = trees.get(read.document) else {
                            continue;
                        };
                        let root = Root {
                            document: document.clone(),
                            prefix: read
                                .item
                                .map_or(String::new(), |item| format!("items[{item}].")),
                        };
                        seen.items.push(Item::new(index, read, lines.clone(), root));
                    }
                }
                Err(error) => seen.broken.push((index, start, error.to_string())),
            }
        }
        seen
    }

    /// MachineConfigs that can be read, with their content.
    pub(super) fn configs(&self) -> impl Iterator<Item = (&Item<'t>, &MachineConfig, &Config)> {
        self.items.iter().filter_map(|item| {
            let (object, config) = (item.machine_config()?, item.config()?);
            Some((item, object, config))
        })
    }

    /// Files of all MachineConfigs.
    pub(super) fn files(&self) -> impl Iterator<Item = File<'_, 't>> {
        self.items.iter().flat_map(Item::files)
    }

    /// Units of all MachineConfigs.
    pub(super) fn units(&self) -> impl Iterator<Item = UnitOf<'_, 't>> {
        self.items.iter().flat_map(Item::units)
    }

    /// MachineOSConfigs.
    pub(super) fn images(&self) -> impl Iterator<Item = (&Item<'t>, &MachineOSConfig)> {
        self.items.iter().filter_map(|item| match &item.object {
            Ok(Object::MachineOSConfig(image)) => Some((item, image.as_ref())),
            _ => None,
        })
    }

    /// Pools, each with the MachineConfigs that it selects and its image.
    pub(super) fn pools(&self) -> impl Iterator<Item = Pool<'_, 't>> {
        self.items.iter().filter_map(|item| {
            let Ok(Object::MachineConfigPool(pool)) = &item.object else {
                return None;
            };
            let name = pool.metadata.name.as_deref().unwrap_or_default();
            let mut images = self.images();
            Some(Pool {
                name,
                configs: self
                    .items
                    .iter()
                    .filter(|item| {
                        item.machine_config()
                            .is_some_and(|config| selects(pool, config))
                    })
                    .collect(),
                image: images.find(|(_, image)| image.spec.machine_config_pool.name == name),
            })
        })
    }

    /// Objects of kinds that are not ours.
    pub(super) fn others(&self) -> impl Iterator<Item = (&Item<'t>, &Value)> {
        self.items.iter().filter_map(|item| match &item.object {
            Ok(Object::Other(value)) => Some((item, value)),
            _ => None,
        })
    }

    pub(super) fn containerfiles(&self) -> Vec<Embedded> {
        let each = self.images().flat_map(|(item, image)| {
            let files = image.spec.container_file.iter().enumerate();
            files.map(move |(index, file)| {
                let field = format!("spec.containerFile[{index}].content");
                let lines = 0..file.content.lines().count();
                Embedded {
                    text: item.text,
                    label: item.label.clone(),
                    lines: lines.map(|line| item.place_of_line(&field, line)).collect(),
                    containerfile: file.content.clone(),
                    ignored: item.ignored.iter().cloned().collect(),
                }
            })
        });
        each.collect()
    }
}

/// Whether a pool takes a MachineConfig.
fn selects(pool: &MachineConfigPool, config: &MachineConfig) -> bool {
    let labels = config.metadata.labels.clone().unwrap_or_default();
    let wanted = pool.spec.machine_config_selector.as_ref();
    wanted.is_some_and(|wanted| selector::matches(wanted, &labels).unwrap_or(false))
}

impl<'t> Item<'t> {
    fn new(text: usize, read: Read, lines: Rc<[&'t str]>, root: Root) -> Self {
        let ignored = read.lint_ignore.split(',');
        let ignored = ignored.map(|id| id.trim().to_owned()).collect();
        let config = match &read.object {
            Ok(Object::MachineConfig(config)) => config.spec.config.as_ref().map(ignition::parse),
            _ => None,
        };
        Item {
            text,
            label: read.label,
            object: read.object,
            config,
            ignored,
            lines,
            root,
        }
    }

    pub(super) fn ignores(&self, id: &str) -> bool {
        self.ignored.contains(id)
    }

    /// Where a field stands.
    pub(super) fn place(&self, field: &str) -> Place {
        tree::place(&self.root.document, &format!("{}{field}", self.root.prefix))
    }

    /// Where a line of a field's text stands: in a literal block each line has one of its own.
    pub(super) fn place_of_line(&self, field: &str, line: usize) -> Place {
        let at = self.place(field);
        let begin = at.line as usize;
        let header = begin
            .checked_sub(1)
            .and_then(|index| self.lines.get(index))
            .is_some_and(|text| {
                let value = text.split_once(": ").map_or("", |(_, value)| value);
                value.trim_start().starts_with('|')
            });
        let Some(text) = self.lines.get(begin + line).filter(|_| header) else {
            return at;
        };
        let indent = self.lines[begin..]
            .iter()
            .find(|text| !text.trim().is_empty())
            .map_or(0, |text| text.len() - text.trim_start().len());
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Place {
            line: count(begin + line + 1),
            column: count(indent.min(text.len()) + 1),
        }
    }

    pub(super) fn machine_config(&self) -> Option<&MachineConfig> {
        match &self.object {
            Ok(Object::MachineConfig(config)) => Some(config),
            _ => None,
        }
    }

    /// What its Ignition config says, when that can be read.
    pub(super) fn config(&self) -> Option<&Config> {
        self.config.as_ref()?.as_ref().ok()
    }

    /// What is wrong with its Ignition config.
    pub(super) fn config_problems(&self) -> &[Problem] {
        match &self.config {
            Some(Err(problems)) => problems,
            _ => &[],
        }
    }

    /// The role that its label names.
    pub(super) fn role(&self) -> Option<&str> {
        let labels = self.machine_config()?.metadata.labels.as_ref()?;
        labels.get(keys::ROLE).map(String::as_str)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = File<'_, 't>> {
        self.listed("/storage/files", "path", |config, path| {
            config.node(&normalised(path))
        })
        .map(|(field, node)| File {
            item: self,
            field,
            node,
        })
    }

    pub(super) fn units(&self) -> impl Iterator<Item = UnitOf<'_, 't>> {
        self.listed("/systemd/units", "name", Config::unit)
            .map(|(field, unit)| UnitOf {
                item: self,
                field,
                unit,
            })
    }

    /// The things of a list of the config, each with its field.
    fn listed<'s, T: 's>(
        &'s self,
        list: &'static str,
        key: &'static str,
        find: impl Fn(&'s Config, &str) -> Option<&'s T>,
    ) -> impl Iterator<Item = (String, &'s T)> {
        let raw = self
            .machine_config()
            .and_then(|object| object.spec.config.as_ref()?.pointer(list)?.as_array());
        let entries = raw.into_iter().flatten().enumerate();
        entries.filter_map(move |(index, entry)| {
            let found = find(self.config()?, entry.get(key)?.as_str()?)?;
            let field = format!("spec.config{}[{index}]", list.replace('/', "."));
            Some((field, found))
        })
    }
}
