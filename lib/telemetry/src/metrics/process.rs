//! Metrics of the process, under the names that Prometheus' own clients use. Read from /proc at a scrape: what cannot be read
//! is left out.

use std::fs;

use super::{Family, Registry, Samples};

static CPU: Family =
    Family::counter("process_cpu_seconds_total", "CPU time used by the process, user and system, in seconds.", &[]);
static STARTED: Family =
    Family::gauge("process_start_time_seconds", "Start time of the process, in seconds since the epoch.", &[]);
static RESIDENT: Family = Family::gauge("process_resident_memory_bytes", "Resident memory of the process.", &[]);
static OPEN: Family = Family::gauge("process_open_fds", "Open file descriptors.", &[]);
static MOST: Family = Family::gauge("process_max_fds", "Limit of open file descriptors.", &[]);
static THREADS: Family = Family::gauge("process_threads", "Threads of the process.", &[]);

/// The metric families of this module.
pub const FAMILIES: &[&Family] = &[&CPU, &STARTED, &RESIDENT, &OPEN, &MOST, &THREADS];

/// The kernel's unit of CPU time, independent of its own clock (time(7), USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Measures this process.
pub fn measure(registry: &Registry) {
    registry.collect(FAMILIES, |samples| {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        read(
            samples,
            &text("/proc/self/stat"),
            &text("/proc/stat"),
            &text("/proc/self/status"),
            &text("/proc/self/limits"),
        );
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            samples.add(&OPEN, &[], open.count());
        }
    });
}

/// From proc_pid_stat(5), proc_stat(5), proc_pid_status(5) and proc_pid_limits(5).
fn read(samples: &mut Samples, stat: &str, system: &str, status: &str, limits: &str) {
    // Behind the name, which may hold anything: the third field and those after it.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let ticks = |number: usize| Some(fields.get(number - 3)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    if let (Some(user), Some(kernel)) = (ticks(14), ticks(15)) {
        samples.add(&CPU, &[], user + kernel);
    }
    let boot = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    if let (Some(boot), Some(after)) = (boot, ticks(22)) {
        samples.add(&STARTED, &[], boot + after);
    }
    let of_status = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    };
    if let Some(kib) = of_status("VmRSS") {
        samples.add(&RESIDENT, &[], kib * 1024);
    }
    if let Some(threads) = of_status("Threads") {
        samples.add(&THREADS, &[], threads);
    }
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    if let Some(most) = soft.and_then(|most| most.parse::<u64>().ok()) {
        samples.add(&MOST, &[], most);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    fn text(samples: Samples) -> Vec<String> {
        let families: Vec<_> =
            samples.families().into_iter().filter(|family| !family.get_metric().is_empty()).collect();
        let text = TextEncoder::new().encode_to_string(&families).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn proc_files_are_read() {
        let mut samples = Samples::new(FAMILIES);
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 5 0 12345 1 2 3";
        let limits = "Limit     Soft Limit   Hard Limit   Units\nMax open files    1024    4096    files\n";
        read(&mut samples, stat, "cpu 1 2\nbtime 1700000000\n", "VmRSS:\t  12 kB\nThreads:\t5\n", limits);
        assert_eq!(
            text(samples),
            [
                "process_cpu_seconds_total 2",
                "process_start_time_seconds 1700000123.45",
                "process_resident_memory_bytes 12288",
                "process_max_fds 1024",
                "process_threads 5",
            ]
        );
    }

    #[test]
    fn an_unreadable_value_is_left_out() {
        let mut samples = Samples::new(FAMILIES);
        read(&mut samples, "7 (short) S 1", "", "VmRSS: many", "Max open files unlimited unlimited files");
        assert_eq!(text(samples), [""; 0]);
    }

    #[test]
    fn this_process_is_there() {
        let registry = Registry::default();
        measure(&registry);
        let text = registry.text();
        let missing = FAMILIES.iter().find(|family| !text.contains(&format!("\n{} ", family.name())));
        assert_eq!(missing.map(|family| family.name()), None, "{text}");
    }
}
