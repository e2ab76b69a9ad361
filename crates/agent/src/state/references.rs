//! What deployments, shared places and a started step refer to; the rest goes.

use camino::Utf8PathBuf;
use model::node::Target;
use model::update::Version;

use super::record::record_path;
use super::staged::staged_path;
use super::{Journal, Record, State, StateError, config_path};
use crate::os::DeploymentId;

impl State {
    /// Removes records of deployments that are gone, and configs that nothing refers to any more.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub(crate) fn collect(
        &self,
        deployments: &[DeploymentId],
        keep: &[&str],
    ) -> Result<(), StateError> {
        let mut configs: Vec<String> = keep.iter().map(|name| (*name).to_owned()).collect();
        configs.extend(self.shared()?.writers().cloned());
        let journal = self.journal()?;
        configs.extend(journal.as_ref().map(|journal| journal.target().config));
        if let Some(Journal::Deploy { from, .. }) = journal {
            configs.extend(from);
        }
        let mut kept: Vec<Utf8PathBuf> = deployments.iter().map(record_path).collect();
        kept.extend(deployments.iter().map(staged_path));
        for dir in ["/deployments", "/staged"] {
            for path in self.list(dir)? {
                if !kept.contains(&path) {
                    self.root.remove(&path)?;
                }
            }
        }
        for id in deployments {
            let records = self.record(id)?.into_iter().flat_map(Record::all);
            configs.extend(records.map(|record| record.config));
        }
        for (_, staged) in self.all_staged()? {
            configs.push(staged.config);
            configs.extend(staged.from);
        }
        let kept: Vec<Utf8PathBuf> = configs.iter().map(|name| config_path(name)).collect();
        for path in self.list("/configs")? {
            if !kept.contains(&path) {
                self.root.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Every version that a deployment, the shared places or a started step refer to.
    pub(crate) fn versions(
        &self,
        deployments: &[DeploymentId],
    ) -> Result<Vec<Version>, StateError> {
        let mut targets = Vec::new();
        for id in deployments {
            let records = self.record(id)?.into_iter().flat_map(Record::all);
            targets.extend(records.map(|record| record.target()));
        }
        targets.extend(self.shared()?.writers().map(|config| Target {
            config: config.clone(),
            image: None,
        }));
        targets.extend(self.journal()?.map(|journal| journal.target()));
        targets.extend(self.all_staged()?.iter().map(|(_, staged)| staged.target()));
        targets
            .iter()
            .filter_map(|target| self.version(target).transpose())
            .collect()
    }
}
