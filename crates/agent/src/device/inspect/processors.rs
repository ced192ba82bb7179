use lathe_agent::{Core, MAX_ITEMS};

use super::files::SystemFiles;

const CPUS: &str = "/sys/devices/system/cpu";

/// What ARM's `cluster_id` and `physical_package_id` say where the firmware does not.
const UNTOLD_IDS: [u32; 2] = [u16::MAX as u32, u32::MAX];

/// The processor's name; ARM kernels name the board instead.
pub fn model(files: &SystemFiles) -> Option<String> {
    let cpuinfo = |field| files.field("/proc/cpuinfo", field);
    cpuinfo("model name")
        .or_else(|| cpuinfo("Hardware"))
        .or_else(|| cpuinfo("Model"))
        .or_else(|| files.line("/proc/device-tree/model"))
}

/// Architectures whose programs run on a processor that `/proc/cpuinfo` describes as it does.
pub fn told_arch(files: &SystemFiles) -> Option<&'static [&'static str]> {
    let told = |field| files.field("/proc/cpuinfo", field).is_some();
    if told("vendor_id") {
        return Some(&["x86", "x86_64"]);
    }
    told("CPU implementer").then_some(&["arm", "aarch64"])
}

/// The logical processors.
pub fn cores(files: &SystemFiles) -> Vec<Core> {
    let online = files.text(&format!("{CPUS}/online"));
    let allowed = files.field("/proc/self/status", "Cpus_allowed_list:");
    // Where a list is missing or cannot be read, nothing is excluded.
    let contains = |list: &Option<String>, id| {
        let ranges = list.as_deref().and_then(id_ranges);
        ranges.is_none_or(|ranges| {
            ranges
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&id))
        })
    };
    let ids = core_ids(files).into_iter();
    ids.map(|id| core(files, id, contains(&online, id), contains(&allowed, id)))
        .collect()
}

fn core_ids(files: &SystemFiles) -> Vec<usize> {
    let names = files.names(CPUS, "cpu");
    let numbered = names
        .iter()
        .filter_map(|name| name.strip_prefix("cpu")?.parse().ok());
    let mut ids: Vec<usize> = numbered.collect();
    if ids.is_empty() {
        let cpuinfo = files.text("/proc/cpuinfo").unwrap_or_default();
        let lines = cpuinfo.lines().filter(|line| line.starts_with("processor"));
        let numbers = lines.filter_map(|line| line.split_once(':')?.1.trim().parse().ok());
        ids = numbers.take(MAX_ITEMS).collect();
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn core(files: &SystemFiles, id: usize, is_online: bool, is_allowed: bool) -> Core {
    let path = |name: &str| format!("{CPUS}/cpu{id}/{name}");
    let told_id = |name| {
        let found: Option<u32> = files.number(&path(name));
        found.filter(|id| !UNTOLD_IDS.contains(id))
    };
    let siblings = files.text(&path("topology/thread_siblings_list"));
    let siblings = siblings.as_deref().and_then(id_ranges);
    Core {
        id,
        is_online,
        is_allowed,
        first_sibling: siblings.and_then(|ranges| ranges.iter().map(|range| range.0).min()),
        cluster_id: told_id("topology/cluster_id"),
        package_id: told_id("topology/physical_package_id"),
        capacity: files.number(&path("cpu_capacity")),
        max_khz: files.number(&path("cpufreq/cpuinfo_max_freq")),
        limit_khz: files.number(&path("cpufreq/scaling_max_freq")),
        now_khz: files.number(&path("cpufreq/scaling_cur_freq")),
        governor: files.line(&path("cpufreq/scaling_governor")),
    }
}

/// `0-3,8` as first and last ids; `None` when it is not such a list.
fn id_ranges(text: &str) -> Option<Vec<(usize, usize)>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    text.split(',').map(range).collect()
}

/// Whether cores run two threads each.
pub fn is_smt_active(files: &SystemFiles) -> Option<bool> {
    let active: u32 = files.number(&format!("{CPUS}/smt/active"))?;
    Some(active != 0)
}

/// Whether the clock may rise above the nominal one.
pub fn is_boost_enabled(files: &SystemFiles) -> Option<bool> {
    let boost: Option<u32> = files.number(&format!("{CPUS}/cpufreq/boost"));
    let no_turbo = || files.number(&format!("{CPUS}/intel_pstate/no_turbo"));
    boost
        .map(|boost| boost != 0)
        .or_else(|| no_turbo().map(|off: u32| off == 0))
}

/// Size of the largest cache of the highest level that any processor has.
pub fn last_level_cache_bytes(files: &SystemFiles) -> Option<u64> {
    let cores = core_ids(files).into_iter();
    let caches = cores.flat_map(|id| {
        let folder = format!("{CPUS}/cpu{id}/cache");
        let names = files.names(&folder, "index").into_iter();
        names.map(move |name| format!("{folder}/{name}"))
    });
    let sizes = caches.filter_map(|cache| {
        let level: u32 = files.number(&format!("{cache}/level"))?;
        let size = parse_size(&files.text(&format!("{cache}/size"))?)?;
        Some((level, size))
    });
    sizes.max().map(|(_, size)| size)
}

/// `32768K` or `32M` in bytes.
fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = match text.strip_suffix('K') {
        Some(number) => (number, 1 << 10),
        None => (text.strip_suffix('M')?, 1 << 20),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// The virtual machine's name, when the processor or the firmware tells of one.
pub fn virtual_machine(files: &SystemFiles) -> Option<String> {
    /// In the products' or makers' names that hypervisors show their guests.
    const MAKERS: [&str; 10] = [
        "QEMU",
        "KVM",
        "VMware",
        "VirtualBox",
        "Virtual Machine",
        "HVM domU",
        "Bochs",
        "BHYVE",
        "OpenStack",
        "Parallels",
    ];
    let maker = files.line("/sys/class/dmi/id/sys_vendor");
    let product = files.line("/sys/class/dmi/id/product_name");
    let names: Vec<&str> = [&maker, &product]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let name = names.join(" ");
    let flags = files.text("/proc/cpuinfo").unwrap_or_default();
    let mut flags = flags.lines().filter(|line| line.starts_with("flags"));
    let is_flagged = flags.any(|line| line.split_whitespace().any(|flag| flag == "hypervisor"));
    let is_named = MAKERS.iter().any(|maker| name.contains(maker));
    let hypervisor = files
        .line("/sys/hypervisor/type")
        .or_else(|| files.line("/proc/device-tree/hypervisor/compatible"));
    if !is_flagged && !is_named {
        return hypervisor;
    }
    let name = super::files::printable(&name);
    Some(name.or(hypervisor).unwrap_or_else(|| "unnamed".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_ids_are_read() {
        assert_eq!(id_ranges("0-3,8"), Some(vec![(0, 3), (8, 8)]));
        assert_eq!(id_ranges("5"), Some(vec![(5, 5)]));
        assert_eq!(id_ranges("0-3,x"), None);
        assert_eq!(id_ranges(""), None);
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("32768K"), Some(32 << 20));
        assert_eq!(parse_size("2M"), Some(2 << 20));
        assert_eq!(parse_size("18446744073709551615M"), None);
    }
}
