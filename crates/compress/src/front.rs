//! Fronts as files and as JSON: one column an objective, one row a sub-network.

use std::path::Path;

use lathe_arch::SubnetConfig;
use lathe_search::{Genome, knee_point};
use serde::{Deserialize, Serialize, Serializer};

use crate::Objective;
use crate::artefact::{read_bounded, write_text, write_yaml};

/// One objective, on one device where there are several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The objective.
    pub objective: Objective,
    /// Name of the device, where the front is over several and the objective differs between them.
    pub device: Option<String>,
}

impl Column {
    /// Its name in files: `tpot_us`, or `tpot_us@phone`.
    pub fn field(&self) -> String {
        let field = self.objective.field();
        match &self.device {
            Some(device) => format!("{field}@{device}"),
            None => field.to_owned(),
        }
    }
}

/// A sub-network on a front.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its choices.
    pub genome: Genome,
    /// A value a column, in the unit of [`Objective::field`].
    pub values: Vec<f64>,
    /// Its parameters.
    pub parameters: u64,
    /// The sub-network.
    pub subnet: SubnetConfig,
}

/// Sub-networks of which none is better than another in everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Front {
    /// What they are compared in.
    pub columns: Vec<Column>,
    /// The sub-networks, by the first column.
    pub members: Vec<Member>,
}

/// What is written of a member.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    genome: Option<&'a Genome>,
    #[serde(flatten)]
    values: Values<'a>,
    parameters: u64,
    subnet: &'a SubnetConfig,
}

/// Fields in the order of the columns.
struct Values<'a> {
    columns: &'a [Column],
    values: &'a [f64],
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.columns.iter().map(Column::field);
        serializer.collect_map(fields.zip(self.values))
    }
}

/// Its members, with their genomes.
impl Serialize for Front {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.members.iter().map(|member| Row {
            genome: Some(&member.genome),
            ..self.row(member)
        }))
    }
}

/// The sub-networks of a `front.yaml`, as [`Front::write`] leaves it.
///
/// # Errors
/// When the file cannot be read, is larger than 64 MiB, or holds none.
pub fn read_front(path: &Path) -> anyhow::Result<Vec<SubnetConfig>> {
    #[derive(Deserialize)]
    struct Subnet {
        subnet: SubnetConfig,
    }
    let rows: Vec<Subnet> = read_bounded(path, |text| Ok(serde_yaml::from_slice(text)?))?;
    anyhow::ensure!(!rows.is_empty(), "{}: the front is empty", path.display());
    Ok(rows.into_iter().map(|row| row.subnet).collect())
}

impl Front {
    /// Index of the knee, where there are two columns.
    pub fn knee(&self) -> Option<usize> {
        let point = |member: &Member| <[f64; 2]>::try_from(&member.values[..]).ok();
        let points: Option<Vec<[f64; 2]>> = self.members.iter().map(point).collect();
        knee_point(&points?)
    }

    /// Writes `front.yaml` (with the sub-networks) and `front.csv` into `folder`.
    ///
    /// # Errors
    /// When the disk does not take the files.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let rows: Vec<Row<'_>> = self.members.iter().map(|member| self.row(member)).collect();
        write_yaml(&folder.join("front.yaml"), &rows)?;
        write_text(&folder.join("front.csv"), &self.csv())
    }

    fn row<'a>(&'a self, member: &'a Member) -> Row<'a> {
        Row {
            genome: None,
            values: Values {
                columns: &self.columns,
                values: &member.values,
            },
            parameters: member.parameters,
            subnet: &member.subnet,
        }
    }

    fn csv(&self) -> String {
        let mut csv = String::new();
        for column in &self.columns {
            csv += &format!("{},", column.field());
        }
        csv += "parameters\n";
        for member in &self.members {
            for (column, value) in self.columns.iter().zip(&member.values) {
                csv += &format!("{value:.*},", column.objective.decimals());
            }
            csv += &format!("{}\n", member.parameters);
        }
        csv
    }
}
