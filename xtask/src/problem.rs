//! From arguments to a search problem.

use lathe_arch::SpaceSpec;
use lathe_compress::{DeviceTables, Prepared};
use lathe_fetch::Cache;

use crate::arguments::ProblemArguments;
use crate::context;
use crate::progress::Steps;

impl ProblemArguments {
    /// The tables, which are of the model.
    pub fn tables(&self, cache: &Cache) -> anyhow::Result<DeviceTables> {
        DeviceTables::load_with(&self.table, |path| {
            context::table_for(cache, &self.model.model, path)
        })
    }

    /// The model, ready to be cut.
    pub fn prepare(&self, cache: &Cache, steps: &mut Steps) -> anyhow::Result<Prepared> {
        let mut prepared = context::prepare_search(cache, &self.model, &self.adapter, steps)?;
        prepared.choose_among(self.choices(prepared.choices()))?;
        Ok(prepared)
    }

    /// The model's own choices but for those that were given.
    fn choices(&self, own: &SpaceSpec) -> SpaceSpec {
        let mut choices = self.sizes.among(own);
        if !self.precision.is_empty() {
            choices.precision = self.precision.clone();
            choices.precision.sort_by_key(|precision| precision.bits());
        }
        choices
    }
}
