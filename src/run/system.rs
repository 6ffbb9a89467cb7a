//! `system.jsonl`: what a run takes of its machine, a line every 15 seconds: processor, memory, disk, network, and the
//! GPUs that it sees. Rank 0 writes it; on each other machine the first of its ranks writes `system-RANK.jsonl`.
//!
//! Nothing depends on these lines: what cannot be measured is left out, and a line that cannot be written is lost.

use crate::dist;
use crate::error::{Result, catch_panic};
use crate::files::free_bytes;
use crate::run::inside;
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use serde_json::{Map, Value};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The name of rank 0's file in a run directory.
pub const SYSTEM_FILE: &str = "system.jsonl";
/// Time from line to line. A run that is shorter has none.
pub const INTERVAL: Duration = Duration::from_secs(15);

/// Whether a file of a run directory has this name because it is of this kind.
pub fn is_system_file(name: &str) -> bool {
    let number = name.strip_prefix("system-").and_then(|rest| rest.strip_suffix(".jsonl"));
    name == SYSTEM_FILE || number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The rates of the first line are those of the last part of its interval, so that it need not be measured before.
const FIRST_PART: u32 = 15;
/// How long the end of a run waits for a line that is being written.
const LAST_LINE: Duration = Duration::from_secs(1);

/// Measures the machine in the background for as long as it lives.
pub struct SystemLog {
    stop: Sender<()>,
    ended: Receiver<()>,
}

impl SystemLog {
    /// Starts measuring for the run in `dir`, if this process is the first of its machine; `gpus` says whether the run
    /// uses any.
    pub fn start(dir: &Path, gpus: bool) -> Option<Self> {
        let name = match dist::rank() {
            0 => SYSTEM_FILE.to_string(),
            rank => format!("system-{rank}.jsonl"),
        };
        (dist::local_rank() == 0).then(|| Self::start_as(dir, &name, gpus, INTERVAL))
    }

    /// Starts writing a line to the file `name` of `dir` at every interval.
    pub fn start_as(dir: &Path, name: &str, gpus: bool, interval: Duration) -> Self {
        let (stop, stopped) = channel();
        let (end, ended) = channel();
        let (dir, name) = (dir.to_path_buf(), name.to_string());
        let body = move || {
            let _end: Sender<()> = end;
            let _ = catch_panic(|| {
                watch(&dir, &name, gpus, interval, &stopped);
                Ok(())
            });
        };
        // Without a thread, nothing is measured.
        let _ = std::thread::Builder::new().name("system".into()).spawn(body);
        Self { stop, ended }
    }
}

impl Drop for SystemLog {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        // A driver that hangs does not keep the run from ending.
        let _ = self.ended.recv_timeout(LAST_LINE);
    }
}

fn watch(dir: &Path, name: &str, gpus: bool, interval: Duration, stopped: &Receiver<()>) {
    let waits = |time| stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    let mut wait = interval / FIRST_PART;
    if !waits(interval - wait) {
        return;
    }
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let gpus = if gpus { Gpus::find(None, visible.as_deref()) } else { None };
    let started = Instant::now();
    let mut before = counts(started.elapsed());
    while waits(wait) {
        wait = interval;
        let now = counts(started.elapsed());
        let _ = append(dir, name, &line(dir, gpus.as_ref(), &before, &now));
        before = now;
    }
}

/// Something that is counted, by the name of its rate.
struct Count {
    name: &'static str,
    count: f64,
    /// What the rate is over: seconds, say.
    over: f64,
}

fn line(dir: &Path, gpus: Option<&Gpus>, before: &[Count], now: &[Count]) -> Map<String, Value> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut line = Map::from_iter([("time".to_string(), Value::from(time))]);
    for now in now {
        if let Some(before) = before.iter().find(|before| before.name == now.name)
            && now.over > before.over
        {
            let rate = (now.count - before.count) / (now.over - before.over);
            line.insert(now.name.into(), number(rate.max(0.0)));
        }
    }
    let free = free_bytes(dir).ok().map(|bytes| ("disk_free_bytes", bytes as f64));
    line.extend(gauges().into_iter().chain(free).map(|(name, value)| (name.to_string(), number(value))));
    if let Some(gpus) = gpus {
        gpus.measure(&mut line);
    }
    line
}

/// Whole, or with one digit after the point if it is small.
fn number(value: f64) -> Value {
    if value.abs() < 1000.0 && value.fract() != 0.0 {
        ((value * 10.0).round() / 10.0).into()
    } else {
        (value as i64).into()
    }
}

/// Appends a line whole or not at all.
fn append(dir: &Path, name: &str, line: &Map<String, Value>) -> Result<()> {
    inside::check(dir, name, u64::MAX)?;
    let mut file = OpenOptions::new().create(true).append(true).open(dir.join(name))?;
    let length = file.metadata()?.len();
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    if let Err(e) = file.write_all(&bytes) {
        file.set_len(length)?;
        return Err(e.into());
    }
    Ok(())
}

/// Of the processor in percent, of disk and network in bytes. The disk's are those of this process, also on a network
/// file system; the network's those of the machine.
#[cfg(target_os = "linux")]
fn counts(time: Duration) -> Vec<Count> {
    use procfs::{Current as _, CurrentSI as _, KernelStats, process::Process};
    let mut counts = Vec::new();
    let mut add = |name, count, over| counts.push(Count { name, count, over });
    let time = time.as_secs_f64();
    if let Ok(stat) = Process::myself().and_then(|process| process.stat()) {
        let seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        add("process_cpu_percent", 100.0 * seconds, time);
    }
    if let Ok(stats) = KernelStats::current() {
        let t = stats.total;
        let optional = [t.irq, t.softirq, t.steal].into_iter().flatten().sum::<u64>();
        let busy = t.user + t.nice + t.system + optional;
        add("cpu_percent", 100.0 * busy as f64, (busy + t.idle + t.iowait.unwrap_or(0)) as f64);
    }
    if let Ok(io) = Process::myself().and_then(|process| process.io()) {
        add("disk_read_bytes_per_second", io.read_bytes as f64, time);
        add("disk_write_bytes_per_second", io.write_bytes as f64, time);
    }
    if let Ok(devices) = procfs::net::InterfaceDeviceStatus::current() {
        // Those of hardware; in a container, which has none, all but the loopback.
        let is_hardware = |name: &str| Path::new("/sys/class/net").join(name).join("device").exists();
        let any = devices.0.keys().any(|name| is_hardware(name));
        let counted = devices.0.values().filter(|d| if any { is_hardware(&d.name) } else { d.name != "lo" });
        let (received, sent) = counted.fold((0, 0), |sum, d| (sum.0 + d.recv_bytes, sum.1 + d.sent_bytes));
        add("network_received_bytes_per_second", received as f64, time);
        add("network_sent_bytes_per_second", sent as f64, time);
    }
    counts
}

#[cfg(not(target_os = "linux"))]
fn counts(_time: Duration) -> Vec<Count> {
    Vec::new()
}

/// Memory of this process and of the machine.
#[cfg(target_os = "linux")]
fn gauges() -> Vec<(&'static str, f64)> {
    use procfs::{Current as _, Meminfo, process::Process};
    let mut gauges = Vec::new();
    if let Ok(statm) = Process::myself().and_then(|process| process.statm()) {
        gauges.push(("process_memory_bytes", (statm.resident * procfs::page_size()) as f64));
    }
    if let Ok(memory) = Meminfo::current() {
        let available = memory.mem_available.unwrap_or(memory.mem_free + memory.cached);
        gauges.push(("memory_used_bytes", memory.mem_total.saturating_sub(available) as f64));
        gauges.push(("memory_total_bytes", memory.mem_total as f64));
    }
    gauges
}

#[cfg(not(target_os = "linux"))]
fn gauges() -> Vec<(&'static str, f64)> {
    Vec::new()
}

/// The GPUs that this process sees, by NVIDIA's management library.
pub struct Gpus {
    nvml: Nvml,
    /// Their numbers in the library, in the order in which CUDA numbers them.
    indices: Vec<u32>,
}

impl Gpus {
    /// Those that `visible` (CUDA_VISIBLE_DEVICES) names, or all; none without NVIDIA's driver. `library` is another
    /// than the system's libnvidia-ml.so.1.
    pub fn find(library: Option<&Path>, visible: Option<&str>) -> Option<Self> {
        let library = library.map(PathBuf::from);
        let nvml = match &library {
            Some(path) => Nvml::builder().lib_path(path.as_os_str()).init(),
            None => Nvml::init(),
        };
        let nvml = nvml.ok()?;
        let count = nvml.device_count().ok()?;
        let uuid = |index| nvml.device_by_index(index).and_then(|gpu| gpu.uuid()).unwrap_or_default();
        let indices = seen(visible, &(0..count).map(uuid).collect::<Vec<_>>());
        Some(Self { nvml, indices })
    }

    /// Adds what each of them does to a line.
    pub fn measure(&self, line: &mut Map<String, Value>) {
        for (number, index) in self.indices.iter().enumerate() {
            let Ok(gpu) = self.nvml.device_by_index(*index) else { continue };
            let mut add = |name: &str, value: Option<f64>| {
                line.extend(value.map(|value| (format!("gpu{number}_{name}"), self::number(value))));
            };
            add("utilization_percent", gpu.utilization_rates().ok().map(|rates| rates.gpu.into()));
            let memory = gpu.memory_info().ok();
            add("memory_used_bytes", memory.as_ref().map(|memory| memory.used as f64));
            add("memory_total_bytes", memory.as_ref().map(|memory| memory.total as f64));
            add("power_watts", gpu.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0));
            add("temperature_celsius", gpu.temperature(TemperatureSensor::Gpu).ok().map(f64::from));
        }
    }
}

/// The indices of the GPUs that CUDA_VISIBLE_DEVICES names, by number or by the beginning of a UUID. As in CUDA, a name
/// of none ends the list.
fn seen(visible: Option<&str>, uuids: &[String]) -> Vec<u32> {
    let all = 0..uuids.len() as u32;
    let Some(visible) = visible else { return all.collect() };
    let find = |name: &str| match name.parse::<u32>() {
        Ok(index) => Some(index).filter(|index| all.contains(index)),
        Err(_) => uuids.iter().position(|uuid| name.starts_with("GPU-") && uuid.starts_with(name)).map(|i| i as u32),
    };
    visible.split(',').map_while(|name| find(name.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_numbered_as_cuda_does() {
        let uuids = ["GPU-aa11", "GPU-bb22", "GPU-cc33"].map(String::from);
        for (visible, expected) in [
            (None, vec![0, 1, 2]),
            (Some("2,0"), vec![2, 0]),
            (Some(" 1 , GPU-aa"), vec![1, 0]),
            (Some("1,7,0"), vec![1]),
            (Some("MIG-aa11"), vec![]),
            (Some("-1"), vec![]),
            (Some(""), vec![]),
        ] {
            assert_eq!(seen(visible, &uuids), expected, "{visible:?}");
        }
    }
}
