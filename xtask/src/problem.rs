//! From arguments to a search problem.

use lathe_arch::SpaceSpec;
use lathe_compress::{DeviceTables, Prepared};
use lathe_fetch::Cache;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::arguments::ProblemArguments;
use crate::context;
use crate::progress::Steps;

/// Of the memory that is free when a search begins, one part in this many is for refitted matrices.
const REFITS_SHARE: u64 = 8;

impl ProblemArguments {
    /// The tables, which are of the model.
    pub fn tables(&self, cache: &Cache) -> anyhow::Result<DeviceTables> {
        DeviceTables::load_with(&self.table, |path| {
            context::table_for(cache, &self.model.model, path)
        })
    }

    /// The model, ready to be cut.
    pub fn prepare(&self, cache: &Cache, steps: &mut Steps) -> anyhow::Result<Prepared> {
        let mut prepared = context::prepare(cache, &self.model, &self.adapter, steps)?;
        prepared.choose_among(self.choices(prepared.choices()))?;
        prepared
            .supernet
            .keep_refits(free_memory_bytes() / REFITS_SHARE);
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

/// 0 where the machine does not tell.
fn free_memory_bytes() -> u64 {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::everything());
    let machine = System::new_with_specifics(kind).ok();
    machine.map_or(0, |machine| {
        let of_group = machine.cgroup_limits().map(|limits| limits.free_memory);
        machine.available_memory().min(of_group.unwrap_or(u64::MAX))
    })
}
