use lathe_agent::IdleWindow;

use super::files::SystemFiles;

/// The first number of `/proc/loadavg`.
pub fn load_1min(files: &SystemFiles) -> Option<f64> {
    let text = files.text("/proc/loadavg")?;
    let load: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(load).filter(|load| (0.0..1e9).contains(load))
}

/// `avg10=` of the `some` line of a file of `/proc/pressure`.
pub fn pressure_avg10_percent(files: &SystemFiles, resource: &str) -> Option<f64> {
    let some = files.field(&format!("/proc/pressure/{resource}"), "some")?;
    let mut parts = some.split_whitespace();
    let average = parts.find_map(|part| part.strip_prefix("avg10="))?;
    let percent: f64 = average.parse().ok()?;
    Some(percent).filter(|percent| (0.0..=100.0).contains(percent))
}

/// Numbers of the `cpu` line of `/proc/stat` up to `steal`; the guests' after it are in `user`.
const FIELDS: usize = 8;
const IDLE: [usize; 2] = [3, 4];
const STEAL: usize = 7;

/// Time of all processors so far, in clock ticks.
pub struct Ticks {
    fields: [u64; FIELDS],
    own: u64,
}

impl Ticks {
    pub fn now(files: &SystemFiles) -> Option<Self> {
        let line = files.field("/proc/stat", "cpu ")?;
        let mut numbers = line.split_whitespace();
        let mut fields = [0; FIELDS];
        for field in &mut fields {
            *field = numbers.next()?.parse().ok()?;
        }
        Some(Self {
            fields,
            own: own_ticks(files).unwrap_or(0),
        })
    }

    /// What happened between two readings; `None` when no time passed.
    pub fn since(&self, before: &Self) -> Option<IdleWindow> {
        // The time waiting for a disk can fall, see proc_stat(5).
        let delta = |index: usize| self.fields[index].saturating_sub(before.fields[index]);
        let sum = |total: u64, index| total.saturating_add(delta(index));
        let total = (0..FIELDS).fold(0, sum);
        let idle = IDLE.into_iter().fold(0, sum);
        let own = self.own.saturating_sub(before.own);
        let others = total
            .saturating_sub(idle)
            .saturating_sub(delta(STEAL))
            .saturating_sub(own);
        let percent = |ticks: u64| 100.0 * ticks as f64 / total as f64;
        (total > 0).then(|| IdleWindow {
            ticks: total,
            steal_percent: percent(delta(STEAL)),
            others_busy_percent: percent(others),
            package_watts: None,
        })
    }
}

/// Processor time of this process: the 14th and 15th field of `/proc/self/stat`. The second is
/// the program's name in parentheses, which may hold anything.
fn own_ticks(files: &SystemFiles) -> Option<u64> {
    let text = files.text("/proc/self/stat")?;
    let (_, after_name) = text.rsplit_once(')')?;
    let mut times = after_name.split_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    user.checked_add(times.next()?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(fields: [u64; FIELDS], own: u64) -> Ticks {
        Ticks { fields, own }
    }

    #[test]
    fn shares_are_of_all_processors() {
        let before = ticks([100, 0, 50, 1000, 7, 0, 0, 20], 30);
        let after = ticks([112, 0, 53, 1020, 7, 0, 0, 25], 35);
        let shares = after.since(&before).unwrap();
        assert_eq!(shares.ticks, 40);
        assert_eq!(shares.steal_percent, 12.5);
        assert_eq!(shares.others_busy_percent, 25.0);
    }

    #[test]
    fn counters_that_stand_or_fall_are_no_time() {
        let before = ticks([100, 0, 50, 1000, 7, 0, 0, 20], 30);
        assert_eq!(before.since(&before), None);
        let reset = ticks([0; FIELDS], 0);
        assert_eq!(reset.since(&before), None);
        let shares = ticks([u64::MAX; FIELDS], 0).since(&reset).unwrap();
        assert!((0.0..=100.0).contains(&shares.others_busy_percent));
        assert!((0.0..=100.0).contains(&shares.steal_percent));
    }
}
