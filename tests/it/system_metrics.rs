//! `system.jsonl`: what a run takes of its machine.

use crate::common::*;
use nepa::run::system::{Gpus, SystemLog};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// Waits until a file has so many lines.
fn wait_for_lines(path: &Path, count: usize) -> Vec<Value> {
    let started = Instant::now();
    while lines(path).len() < count {
        assert!(started.elapsed() < Duration::from_secs(20), "{}: too few lines", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    lines(path)
}

/// A number of /proc/meminfo, in bytes.
fn meminfo(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[test]
fn each_line_says_what_the_machine_does() {
    if !alone("system_metrics::each_line_says_what_the_machine_does") {
        return;
    }
    let folder = Folder::new();
    let log = SystemLog::start_as(&folder.path(""), "system.jsonl", false, Duration::from_millis(300));
    let file = folder.path("system.jsonl");
    wait_for_lines(&file, 1);
    let (started, before) = (Instant::now(), processor_time());
    // A core is kept busy, and a megabyte is written to the disk.
    let data = std::fs::File::create(folder.path("data")).unwrap();
    std::io::Write::write_all(&mut &data, &vec![1; 1 << 20]).unwrap();
    data.sync_all().unwrap();
    while std::fs::read_to_string(&file).unwrap().lines().count() < 4 {}
    let percent = 100.0 * (processor_time() - before) / started.elapsed().as_secs_f64();
    let found = lines(&file);
    drop(log);
    let number = |line: &Value, name: &str| line[name].as_f64().unwrap_or_else(|| panic!("{name} in {line}"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for line in &found {
        assert!((number(line, "time") - now).abs() < 30.0);
        assert_eq!(number(line, "memory_total_bytes") as u64, meminfo("MemTotal"));
        let used = meminfo("MemTotal") - meminfo("MemAvailable");
        assert!((number(line, "memory_used_bytes") - used as f64).abs() < 4e9, "{line}");
        assert!((1e6..1e10).contains(&number(line, "process_memory_bytes")), "{line}");
        assert!((0.0..=101.0).contains(&number(line, "cpu_percent")), "{line}");
        assert!(number(line, "disk_free_bytes") > 0.0 && number(line, "disk_read_bytes_per_second") >= 0.0);
        assert!(number(line, "network_received_bytes_per_second") >= 0.0 && line["gpu0_power_watts"].is_null());
    }
    let mean = found[1..4].iter().map(|line| number(line, "process_cpu_percent")).sum::<f64>() / 3.0;
    assert!((percent * 0.6..percent * 1.6).contains(&mean), "{mean} %, measured {percent} %");
    assert!(number(&found[2], "cpu_percent") > 1.0);
    let written: f64 = found.iter().map(|line| number(line, "disk_write_bytes_per_second")).sum();
    // In a third of a second.
    assert!(written > 2e6, "{found:?}");

    // A line every 15 seconds takes less than a thousandth of a core.
    let before = processor_time();
    let log = SystemLog::start_as(&folder.path(""), "often.jsonl", false, Duration::from_millis(15));
    let count = wait_for_lines(&folder.path("often.jsonl"), 20).len();
    drop(log);
    let seconds = (processor_time() - before) / count as f64;
    assert!(seconds < 0.015, "{seconds} s a line");
    println!("{seconds} s a line");
}

/// Seconds that this process has had of processors.
fn processor_time() -> f64 {
    // SAFETY: a plain system call that fills what it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime].iter().map(|t| t.tv_sec as f64 + t.tv_usec as f64 / 1e6).sum()
}

#[test]
fn a_short_run_has_none_and_one_that_cannot_be_written_fails_nothing() {
    let folder = Folder::new();
    folder.run_with("run::log(#{ step: 1, loss: 2.0 });", &["--out", "a"]).succeeds();
    assert!(!folder.names("a").iter().any(|name| name.starts_with("system")), "{:?}", folder.names("a"));

    // A link that leads out of the directory is not followed, and a folder that is gone is not made again.
    folder.write("elsewhere", "");
    std::os::unix::fs::symlink("../elsewhere", folder.path("a/system.jsonl")).unwrap();
    let often = Duration::from_millis(15);
    let logs = [("a", "system.jsonl"), ("gone", "system.jsonl"), ("a", "system-8.jsonl")]
        .map(|(dir, name)| SystemLog::start_as(&folder.path(dir), name, true, often));
    wait_for_lines(&folder.path("a/system-8.jsonl"), 3);
    drop(logs);
    assert_eq!(folder.text("elsewhere"), "");
    assert!(!folder.path("gone").exists());
    // Nothing is written after the end.
    let found = lines(&folder.path("a/system-8.jsonl")).len();
    std::thread::sleep(often * 4);
    assert_eq!(lines(&folder.path("a/system-8.jsonl")).len(), found);
}

#[test]
fn a_run_logs_its_machine_every_15_seconds() {
    let folder = Folder::new();
    folder.run_with("run::log(#{ step: 1, loss: 2.0 }); sleep(16);", &["--out", "a"]).succeeds();
    let found = lines(&folder.path("a/system.jsonl"));
    assert_eq!(found.len(), 1);
    // It sleeps, which takes less than a thousandth of a core.
    assert!(found[0]["process_cpu_percent"].as_f64().unwrap() < 5.0, "{}", found[0]);
}

#[cfg(target_os = "linux")]
#[test]
fn gpus_that_are_visible_are_measured() {
    let folder = Folder::new();
    let library = folder.path("libnvidia-ml.so.1");
    let mut compiler = Command::new("c++");
    compiler.args(["-x", "c", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&library);
    let output = compiler.arg(repository("tests/it/common/nvml.c")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured = |visible: Option<&str>| {
        let mut line = Map::new();
        Gpus::find(Some(&library), visible).unwrap().measure(&mut line);
        Value::Object(line)
    };
    let one = json!({
        "gpu0_utilization_percent": 91, "gpu0_memory_used_bytes": 2_i64 << 30, "gpu0_memory_total_bytes": 80_i64 << 30,
        "gpu0_power_watts": 350.3, "gpu0_temperature_celsius": 61
    });
    assert_eq!(measured(Some("1")), one);
    assert_eq!(measured(Some("GPU-b")), one);
    // What a GPU does not tell is left out.
    let two = measured(Some("2,0"));
    assert_eq!(two["gpu0_temperature_celsius"], 62);
    assert_eq!(two["gpu1_utilization_percent"], 90);
    assert!(two["gpu0_utilization_percent"].is_null() && two["gpu0_power_watts"].is_null());
    assert_eq!(measured(None).as_object().unwrap().len(), 13);
    assert!(Gpus::find(Some(&folder.path("none.so")), None).is_none());
}
