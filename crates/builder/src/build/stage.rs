//! One stage: its base, then its instructions one after the other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use oci::{Digest, Reference};

use super::layers::StageLayer;
use super::{Build, Built, parse_platform};
use crate::config::History;
use crate::containerfile::{self, Instruction, Kind, Problem};
use crate::error::BuildError;
use crate::event::Event;
use crate::snapshot::Snapshot;
use crate::stages::{Origin, Planned};
use crate::state::{Action, State};

/// A stage while its steps are done.
#[derive(Debug)]
pub(super) struct Stage<'s, 'a> {
    pub(super) build: &'s Build<'a>,
    pub(super) index: usize,
    /// The stages that this one uses.
    pub(super) needed: &'s BTreeMap<usize, Built>,
    pub(super) state: State,
    pub(super) layers: Vec<StageLayer>,
    base: Option<Reference>,
    /// The time of everything in the image.
    pub(super) epoch: Timestamp,
    /// Roots that files are copied from.
    pub(super) trees: BTreeMap<Origin, Snapshot>,
    /// The number of the step at hand.
    pub(super) step: usize,
    /// The layers go into the image.
    pub(super) exported: bool,
    /// It becomes the image.
    target: bool,
    /// No instruction that changes files follows.
    pub(super) last: bool,
}

impl<'s, 'a> Stage<'s, 'a> {
    /// Looks the base up. `first` is the number of the stage's first step.
    pub(super) fn start(
        build: &'s Build<'a>,
        planned: &Planned,
        first: usize,
        needed: &'s BTreeMap<usize, Built>,
    ) -> Result<Self, BuildError> {
        let from = &build.file.stages[planned.index];
        build.begin(first, &from.text);
        let platform = match &planned.platform {
            Some(text) => parse_platform(text)
                .map_err(|message| build.syntax(Problem::new(from.at, message)))?,
            None => build.platform.clone(),
        };
        let base = build.resolve(&planned.base, &platform, from.image.at, needed)?;
        let epoch = build
            .request
            .created
            .unwrap_or_else(|| base.config.created());
        Ok(Stage {
            build,
            index: planned.index,
            needed,
            state: State::new(
                base.config,
                &build.globals,
                &build.request.build_args,
                build.file.escape,
            ),
            layers: base.layers,
            base: base.base,
            epoch,
            trees: BTreeMap::new(),
            step: first,
            exported: planned.exported,
            target: planned.target,
            last: false,
        })
    }

    /// Does every step.
    pub(super) fn run(mut self) -> Result<Built, BuildError> {
        let from = &self.build.file.stages[self.index];
        // What the base image asks for belongs to the step that names it.
        for trigger in self.state.take_triggers() {
            let instructions = containerfile::parse_trigger(&trigger).map_err(|problems| {
                BuildError::BaseInvalid {
                    reference: from.image.raw.clone(),
                    reason: format!("its trigger `{trigger}` is not valid: {}", problems[0]),
                }
            })?;
            for instruction in instructions {
                self.instruction(&Instruction {
                    at: from.at,
                    ..instruction
                })?;
            }
        }
        self.build.work.tell(Event::StepDone { step: self.step });
        for (number, instruction) in from.instructions.iter().enumerate() {
            self.last = self.target && !from.instructions[number + 1..].iter().any(changes_files);
            self.step += 1;
            self.build.begin(self.step, &instruction.text);
            self.instruction(instruction)?;
            self.build.work.tell(Event::StepDone { step: self.step });
        }
        let mut config = self.state.config;
        config.rootfs.diff_ids = self.layers.iter().map(|layer| layer.diff_id).collect();
        Ok(Built {
            config,
            layers: self.layers,
            base: self.base,
        })
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<(), BuildError> {
        self.build.work.check_cancelled()?;
        let action = self
            .state
            .apply(instruction)
            .map_err(|problem| self.build.syntax(problem))?;
        let layer = match &action {
            Action::None => None,
            action => self.layer_of(action, instruction)?,
        };
        self.state.config.history.push(History {
            created: Some(self.epoch.to_string()),
            created_by: Some(instruction.text.clone()),
            empty_layer: layer.is_none(),
            ..History::default()
        });
        self.layers.extend(layer);
        Ok(())
    }
}

fn changes_files(instruction: &Instruction) -> bool {
    matches!(
        instruction.kind,
        Kind::Run(_) | Kind::Copy(_) | Kind::Workdir(_)
    )
}

impl Build<'_> {
    /// Remembers a step whose result is to be exported.
    pub(super) fn note_done(&self, key: Digest, below: Option<Digest>) {
        let mut done = self.done.lock().expect("nobody panics with this lock");
        done.insert(key, below);
    }

    fn begin(&self, step: usize, text: &str) {
        self.work.tell(Event::StepStarted {
            step,
            steps: self.steps,
            text: text.to_string(),
        });
    }
}
