//! Which process is at which trial of a study.

use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::{Connection, TransactionBehavior, params};
use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System};

/// Studies that this process has opened.
static OPENED: AtomicUsize = AtomicUsize::new(0);

/// Who claims: an open study of a process, told from a later process of the same number by when it
/// began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claimant {
    process: u32,
    /// Seconds since 1970.
    started_s: u64,
    study: usize,
}

impl Claimant {
    pub fn new() -> Self {
        let process = process::id();
        Self {
            process,
            started_s: started_s(process).unwrap_or(0),
            study: OPENED.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Whether its process still runs.
    fn is_alive(&self) -> bool {
        started_s(self.process) == Some(self.started_s)
    }
}

/// When a running process began; `None` where there is none, or the system does not tell.
fn started_s(process: u32) -> Option<u64> {
    let pid = Pid::from_u32(process);
    let mut system = System::new().ok()?;
    let which = ProcessesToUpdate::Some(&[pid]);
    system.refresh_processes_specifics(which, true, ProcessRefreshKind::nothing());
    let process = system.process(pid)?;
    (process.status() != ProcessStatus::Zombie).then(|| process.start_time())
}

pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS claim (
    number INTEGER PRIMARY KEY,
    process INTEGER NOT NULL,
    started_s INTEGER NOT NULL,
    study INTEGER NOT NULL
)";

/// Claims for `claimant` the first `most` of `numbers` that are neither claimed by a living process
/// nor evaluated.
pub(super) fn claim(
    connection: &mut Connection,
    claimant: Claimant,
    numbers: &[usize],
    most: usize,
) -> rusqlite::Result<Vec<usize>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for other in claimants(&transaction)? {
        if other != claimant && !other.is_alive() {
            release(&transaction, other)?;
        }
    }
    let insert = "INSERT OR IGNORE INTO claim (number, process, started_s, study)
        SELECT ?1, ?2, ?3, ?4 WHERE NOT EXISTS (SELECT 1 FROM evaluation WHERE number = ?1)";
    let mut claimed = Vec::new();
    for &number in numbers {
        if claimed.len() == most {
            break;
        }
        let Claimant {
            process,
            started_s,
            study,
        } = claimant;
        let row = params![number as i64, process, started_s as i64, study as i64];
        if transaction.execute(insert, row)? == 1 {
            claimed.push(number);
        }
    }
    transaction.commit()?;
    Ok(claimed)
}

/// Gives up all claims of `claimant`.
pub(super) fn release(connection: &Connection, claimant: Claimant) -> rusqlite::Result<()> {
    let delete = "DELETE FROM claim WHERE process = ? AND started_s = ? AND study = ?";
    let Claimant {
        process,
        started_s,
        study,
    } = claimant;
    connection.execute(delete, params![process, started_s as i64, study as i64])?;
    Ok(())
}

fn claimants(connection: &Connection) -> rusqlite::Result<Vec<Claimant>> {
    let query = "SELECT DISTINCT process, started_s, study FROM claim";
    let mut statement = connection.prepare_cached(query)?;
    let rows = statement.query_map([], |row| {
        Ok(Claimant {
            process: row.get(0)?,
            started_s: row.get::<_, i64>(1)? as u64,
            study: row.get::<_, i64>(2)? as usize,
        })
    })?;
    rows.collect()
}
