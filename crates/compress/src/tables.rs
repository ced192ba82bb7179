//! Latency tables of one model on several devices.

use std::iter::once;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lathe_arch::{SearchSpace, Workload};
use lathe_latency::LatencyTable;
use lathe_search::StudyHeader;

use crate::device::Device;
use crate::problem::{is_of_model, model_in};

/// Characters of a device's name, at most.
const NAME_CHARACTERS: usize = 24;

/// A latency table and what its device is called.
#[derive(Debug)]
pub struct DeviceTable {
    /// The device's name, which no other has: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The table's file.
    pub path: PathBuf,
    /// The table.
    pub table: LatencyTable,
}

/// One table or more, all of the model of one study.
#[derive(Debug)]
pub struct DeviceTables {
    first: DeviceTable,
    others: Vec<DeviceTable>,
}

impl DeviceTables {
    /// Loads the tables at `paths` for the study of `header`.
    ///
    /// # Errors
    /// When there is none, one is given twice or cannot be read, or is of another model than the
    /// study: names both.
    pub fn load(paths: &[PathBuf], header: &StudyHeader) -> anyhow::Result<Self> {
        Self::load_with(paths, |path| {
            let table = LatencyTable::load(path)?;
            anyhow::ensure!(
                is_of_model(&header.problem, &table.model.name),
                "{}: the table is of model `{}`, the study of `{}`",
                path.display(),
                table.model.name,
                model_in(&header.problem)
            );
            Ok(table)
        })
    }

    /// The tables that `load` gives for `paths`.
    ///
    /// # Errors
    /// As `load` has, or when there is no path, one is given twice, or the tables are of models of
    /// different dimensions.
    pub fn load_with(
        paths: &[PathBuf],
        load: impl Fn(&Path) -> anyhow::Result<LatencyTable>,
    ) -> anyhow::Result<Self> {
        let (first, others) = paths.split_first().context("no latency table is given")?;
        let mut tables = Self {
            first: DeviceTable::new(first, load(first)?),
            others: Vec::new(),
        };
        for path in others {
            tables.push(DeviceTable::new(path, load(path)?))?;
        }
        Ok(tables)
    }

    /// The tables in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &DeviceTable> {
        once(&self.first).chain(&self.others)
    }

    /// The first table.
    pub fn first(&self) -> &LatencyTable {
        &self.first.table
    }

    fn push(&mut self, mut added: DeviceTable) -> anyhow::Result<()> {
        let path = added.path.display();
        anyhow::ensure!(
            self.iter().all(|other| other.path != added.path),
            "{path}: the table is given twice"
        );
        anyhow::ensure!(
            self.first().model.dimensions == added.table.model.dimensions,
            "{path}: the table's `{}` has other dimensions than that of {}",
            added.table.model.name,
            self.first.path.display()
        );
        let is_taken = |name: &str| self.iter().any(|other| other.name == name);
        let (name, mut number) = (added.name.clone(), 1);
        while is_taken(&added.name) {
            number += 1;
            added.name = format!("{name}-{number}");
        }
        self.others.push(added);
        Ok(())
    }

    /// What they say of the networks of `space`.
    ///
    /// # Errors
    /// Names the table that lacks a choice of the space or does not cover the workload.
    pub(crate) fn devices(
        &self,
        space: &SearchSpace,
        workload: Workload,
    ) -> anyhow::Result<Vec<Device<'_>>> {
        self.iter()
            .map(|named| named.device(space, workload))
            .collect()
    }
}

impl DeviceTable {
    fn new(path: &Path, table: LatencyTable) -> Self {
        Self {
            name: plain(&table.device.name),
            path: path.to_owned(),
            table,
        }
    }

    fn device(&self, space: &SearchSpace, workload: Workload) -> anyhow::Result<Device<'_>> {
        Device::new(&self.name, &self.table, space, workload)
            .with_context(|| self.path.display().to_string())
    }
}

/// A name that needs no quotes in files and at the prompt.
fn plain(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let characters = name.chars().take(NAME_CHARACTERS);
    let plain: String = characters
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    if plain.is_empty() {
        return "device".to_owned();
    }
    plain
}
