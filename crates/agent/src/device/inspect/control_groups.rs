//! Limits of the agent's control groups, version 2 (the kernel's `cgroup-v2.rst`). A limit of a
//! group holds for all groups inside it.

use super::files::SystemFiles;

/// Processors' worth of time that the groups allow.
pub fn cpu_quota(files: &SystemFiles) -> Option<f64> {
    let quotas = folders(files).into_iter().filter_map(|folder| {
        let text = files.text(&format!("{folder}/cpu.max"))?;
        let (quota_us, period_us) = text.split_once(' ')?;
        let quota_us: u64 = quota_us.parse().ok()?;
        let period_us: u64 = period_us.trim().parse().ok().filter(|period| *period > 0)?;
        Some(quota_us as f64 / period_us as f64)
    });
    quotas.min_by(f64::total_cmp).filter(|quota| *quota < 1e9)
}

/// Memory that the groups leave.
pub fn memory_left_bytes(files: &SystemFiles) -> Option<u64> {
    let left = folders(files).into_iter().filter_map(|folder| {
        let max: u64 = files.number(&format!("{folder}/memory.max"))?;
        let current: u64 = files.number(&format!("{folder}/memory.current"))?;
        Some(max.saturating_sub(current))
    });
    left.min()
}

/// The folders of the agent's group and all around it.
fn folders(files: &SystemFiles) -> Vec<String> {
    const TOP: &str = "/sys/fs/cgroup";
    let mut folders = vec![TOP.to_owned()];
    // A group outside of what the agent can see is shown as `/..`.
    let path = files.field("/proc/self/cgroup", "0::").unwrap_or_default();
    let names = path.split('/').filter(|name| !name.is_empty());
    for name in names.take_while(|name| *name != "..") {
        let inside = format!("{}/{name}", folders.last().map_or(TOP, String::as_str));
        folders.push(inside);
    }
    folders
}
