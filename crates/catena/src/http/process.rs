//! Metrics of the process itself, by the names that every Prometheus exporter uses.

use rustix::param::{clock_ticks_per_second, page_size};

use super::exposition::{Exposition, Type};

/// Fields of `/proc/self/stat` behind the name of the program, counted from its state.
const USER: usize = 11;
const SYSTEM: usize = 12;
const START: usize = 19;
const RESIDENT: usize = 21;

/// Adds them. What the system does not say is 0.
pub(super) fn describe(e: &mut Exposition) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name may hold anything, also spaces and brackets.
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    let field = |n: usize| fields.get(n).copied().unwrap_or(0);
    let seconds = |ticks: u64| ticks as f64 / clock_ticks_per_second() as f64;
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let version = env!("CARGO_PKG_VERSION");
    e.single("catena_build_info", Type::Gauge, "Version of the binary; always 1.", &[("version", &version)], 1);
    let cpu = seconds(field(USER) + field(SYSTEM));
    e.single("process_cpu_seconds_total", Type::Counter, "User and system CPU time in seconds.", &[], cpu);
    let resident = field(RESIDENT) * page_size() as u64;
    e.single("process_resident_memory_bytes", Type::Gauge, "Resident memory in bytes.", &[], resident);
    e.single("process_open_fds", Type::Gauge, "Open file descriptors.", &[], descriptors);
    let start = boot_seconds() + seconds(field(START));
    e.single("process_start_time_seconds", Type::Gauge, "Start of the process, in seconds since 1970.", &[], start);
}

/// Start of the system in seconds since 1970.
fn boot_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().find_map(|l| l.strip_prefix("btime ")).and_then(|t| t.trim().parse().ok()).unwrap_or(0.0)
}
