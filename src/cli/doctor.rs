//! `nepa doctor`

use super::DoctorArgs;
use crate::data::decode::{self, Backend};
use crate::dist::ClusterEnvironment;
use crate::error::{Result, hint_of, one_line};
use crate::files::{free_bytes, nearest_folder};
use crate::output::out;
use crate::provenance::Versions;
use crate::text::bytes;
use crate::{cache, device, ffi, memory};
use std::fmt::Write as _;
use std::fs;
use std::net::ToSocketAddrs;
use std::path::Path;
use tch::{Cuda, Device, Kind, Tensor};

/// Below this, a run that saves checkpoints of a base model soon has no room.
const LITTLE_DISK: u64 = 10_000_000_000;
/// NCCL's processes of one machine talk through shared memory; Docker gives a container 64 MB.
const LITTLE_SHARED_MEMORY: u64 = 1_000_000_000;
/// A process has this many files open for a few hundred shards.
const FEW_FILES: u64 = 1024;

/// What was found of one thing.
enum Finding {
    /// It is as it should be.
    Ok(String),
    /// It works; the second text says what would be better, or when it matters.
    Note(String, String),
    /// It does not work; the second text says what to do.
    Fix(String, String),
}
use Finding::{Fix, Note, Ok as Fine};

/// Looks at everything that a run needs. Prints a line for each, and returns whether all of it works.
pub fn doctor(args: &DoctorArgs) -> bool {
    let checks: [(&str, &dyn Fn() -> Finding); 12] = [
        ("nepa", &program),
        ("processor", &processor),
        ("threads", &threads),
        ("memory", &main_memory),
        ("libtorch", &libtorch),
        // The first: libtorch remembers that there was no GPU before its library was opened.
        ("GPU", &gpus),
        ("computing", &|| computing(Device::Cpu)),
        ("JPEG", &jpeg),
        ("files", &open_files),
        ("disk", &|| disk(&args.out)),
        ("cache", &cache_folder),
        ("distributed", &distributed),
    ];
    let mut all_work = true;
    for (what, check) in checks {
        let (state, text, advice) = match check() {
            Fine(text) => ("ok", text, None),
            Note(text, advice) => ("note", text, Some(advice)),
            Fix(text, advice) => ("fix", text, Some(advice)),
        };
        all_work &= state != "fix";
        out!("{state:<5} {what:<11} {text}");
        if let Some(advice) = advice {
            out!("{:<17} -> {advice}", "");
        }
    }
    out!();
    out!(
        "{}",
        if all_work { "everything that a run needs works" } else { "something has to be fixed: see the lines above" }
    );
    all_work
}

/// An error, and its own advice or `otherwise`.
fn fix(error: &anyhow::Error, otherwise: &str) -> Finding {
    Fix(one_line(error), hint_of(error).unwrap_or_else(|| otherwise.into()))
}

fn program() -> Finding {
    let versions: Vec<String> = Versions::of_this_build().known().map(|(name, v)| format!("{name} {v}")).collect();
    let path = std::env::current_exe().map_or_else(|_| "unknown".into(), |path| path.display().to_string());
    let build = if cfg!(debug_assertions) { " (a development build, which is slow)" } else { "" };
    Fine(format!("{}; {path}{build}", versions.join(", ")))
}

fn processor() -> Finding {
    let about = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = about.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let flags = field("flags").unwrap_or_default();
    let has = |name: &str| flags.split(' ').any(|flag| flag == name);
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    if let Err(e) = device::check_kernels() {
        return fix(&e, "unset it");
    }
    let blocks = match ffi::cpu_kernels() {
        Some(name) => format!("blocks fused ({name})"),
        None => "blocks not fused".into(),
    };
    let text = |bfloat16: &str| format!("{model}; {blocks}; bfloat16 {bfloat16}");
    match (has("amx_bf16"), has("avx512_bf16") || has("avx_ne_convert")) {
        (true, _) => Fine(text("by AMX")),
        (_, true) => Fine(text("by AVX-512")),
        _ => Note(text("emulated"), "on the CPU, use dtype float32: bfloat16 is slower here".into()),
    }
}

fn threads() -> Finding {
    let usable = std::thread::available_parallelism().map_or(1, |n| n.get());
    let all = fs::read_to_string("/proc/cpuinfo").unwrap_or_default().matches("\nprocessor").count() + 1;
    let text = format!("{usable} for a run on this machine (--threads changes it)");
    match usable < all {
        true => Note(text, format!("the machine has {all} cores; its container, job or taskset allows {usable}")),
        false => Fine(text),
    }
}

fn main_memory() -> Finding {
    let about = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = about.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let free = free.map_or(String::new(), |kb| format!(", {} of the machine's free", bytes(kb as f64 * 1024.0)));
    match memory::total() {
        u64::MAX => Fine("no limit known".into()),
        all => Fine(format!("{} for this process{free}", bytes(all as f64))),
    }
}

fn libtorch() -> Finding {
    match ffi::torch_folder() {
        Some(folder) => Fine(fs::canonicalize(&folder).unwrap_or(folder).display().to_string()),
        None => Note("the system does not tell where it was loaded from".into(), "GPUs may not be found".into()),
    }
}

/// A small product, forward and backward, whose gradient is known.
fn computing(on: Device) -> Finding {
    let compute = || -> Result<bool> {
        let x = Tensor::f_ones([64, 64], (Kind::Float, on))?.f_set_requires_grad(true)?;
        x.f_matmul(&x)?.f_sum(Kind::Float)?.f_backward()?;
        Ok(x.f_grad()?.f_eq(128.0)?.f_all()?.f_int64_value(&[])? == 1)
    };
    match compute() {
        Ok(true) => Fine("a product and its gradient are right".into()),
        Ok(false) => Fix(
            format!("a product on {} has a wrong gradient", device::name(on)),
            "libtorch or the hardware is broken: do not trust what it computes".into(),
        ),
        Err(e) => fix(&e, "nothing can be computed on it"),
    }
}

fn gpus() -> Finding {
    let driver = fs::read_to_string("/proc/driver/nvidia/version").ok();
    let driver = driver.as_deref().and_then(|text| text.split_whitespace().find(|word| word.contains('.')));
    match ffi::open_cuda() {
        Err(e) => Fix(format!("libtorch's CUDA library cannot be opened: {}", one_line(&e)), device::repair().into()),
        Ok(false) => match driver {
            Some(version) => {
                let text = format!("there is one (driver {version}), but this libtorch is for CPUs alone");
                Note(text, device::repair().into())
            }
            None => Fine("none, and libtorch is for CPUs: runs are on the CPU".into()),
        },
        Ok(true) if Cuda::device_count() == 0 => {
            let text = "libtorch has CUDA, but sees no GPU".to_string();
            match std::env::var("CUDA_VISIBLE_DEVICES") {
                Ok(list) => Note(text, format!("CUDA_VISIBLE_DEVICES is \"{list}\"; `nvidia-smi` lists the GPUs")),
                Err(_) => Note(text, "if there is one, `nvidia-smi` says whether its driver works".into()),
            }
        }
        Ok(true) => each_gpu(driver),
    }
}

fn each_gpu(driver: Option<&str>) -> Finding {
    let mut text = driver.map_or(String::new(), |version| format!("driver {version}"));
    for index in 0..Cuda::device_count() as usize {
        if let found @ (Fix(..) | Note(..)) = computing(Device::Cuda(index)) {
            return found;
        }
        match ffi::gpu_memory(index) {
            Ok(gpu) => {
                let gap = if text.is_empty() { "" } else { "; " };
                let _ = write!(
                    text,
                    "{gap}cuda:{index} computes, {} of {} free",
                    bytes(gpu.free as f64),
                    bytes(gpu.total as f64)
                );
            }
            Err(e) => return fix(&e, "`nvidia-smi` shows what uses its memory"),
        }
    }
    let shared = free_bytes(Path::new("/dev/shm")).ok();
    match shared.filter(|shared| *shared < LITTLE_SHARED_MEMORY && Cuda::device_count() > 1) {
        Some(shared) => {
            let advice = "several processes need more: docker run --shm-size=8g, or --ipc=host";
            Note(format!("{text}; {} of shared memory", bytes(shared as f64)), advice.into())
        }
        None => Fine(text),
    }
}

fn jpeg() -> Finding {
    let backend = decode::backend();
    match backend {
        Backend::LibjpegTurbo(_) => Fine(backend.describe()),
        Backend::ZuneJpeg => {
            let advice = "for several times the speed install libjpeg-turbo (libjpeg62-turbo, libjpeg-turbo8), or name it \
                          in NEPA_LIBJPEG";
            Note(backend.describe(), advice.into())
        }
    }
}

fn open_files() -> Finding {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    match most {
        u64::MAX => Fine("as many open files as there are".into()),
        most if most < FEW_FILES => Note(
            format!("at most {most} open files"),
            "data in many shards needs more: `ulimit -n 65536` in the shell that starts the run".into(),
        ),
        most => Fine(format!("at most {most} open files")),
    }
}

/// Whether files can be written and locked in a folder, or in the one that it would be made in; the bytes that are free.
fn try_folder(path: &Path, needs_locks: bool) -> Result<(Option<u64>, bool), (String, String)> {
    let elsewhere = || "choose another folder, or change its owner or permissions".to_string();
    let folder = nearest_folder(path).map_err(|e| (one_line(&e), elsewhere()))?;
    let failed = |e: std::io::Error| (format!("{} cannot be written to: {e}", folder.display()), elsewhere());
    let file = tempfile::Builder::new().prefix(".nepa-doctor-").tempfile_in(&folder).map_err(failed)?;
    std::io::Write::write_all(&mut file.as_file(), b"nepa").and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    let locks = !needs_locks || file.as_file().try_lock().is_ok();
    Ok((free_bytes(&folder).ok(), locks))
}

fn disk(out: &Path) -> Finding {
    let (free, locks) = match try_folder(out, true) {
        Ok(found) => found,
        Err((text, advice)) => return Fix(text, advice),
    };
    let room = free.map_or_else(|| "writable".into(), |free| format!("writable, {} free", bytes(free as f64)));
    let text = format!("{}: {room}", out.display());
    if !locks {
        return Note(
            format!("{text}, without locks"),
            "nothing keeps two runs from one run directory here: give each its own --out".into(),
        );
    }
    match free.filter(|free| *free < LITTLE_DISK) {
        Some(_) => Note(text, "a checkpoint of the base model takes 1.4 GB, and a run keeps several".into()),
        None => Fine(text),
    }
}

fn cache_folder() -> Finding {
    let Some(folder) = cache::folder() else {
        return Note(
            "no folder: neither NEPA_CACHE nor a home folder is known".into(),
            "large data sets are listed again by each run; set NEPA_CACHE to a folder".into(),
        );
    };
    match try_folder(&folder, false) {
        Ok(_) => Fine(format!("{}: writable", folder.display())),
        Err((text, _)) => Note(
            text,
            "large data sets are listed again by each run; set NEPA_CACHE to a folder that can be written to".into(),
        ),
    }
}

fn distributed() -> Finding {
    let environment = match ClusterEnvironment::from_env() {
        Ok(None) => {
            return Fine(
                "one process: neither torchrun nor srun has started this (nepa run --nproc N starts more)".into(),
            );
        }
        Ok(Some(environment)) => environment,
        Err(e) => return fix(&e, "unset it to train with one process"),
    };
    let ClusterEnvironment { rank, world_size, host, port, .. } = environment;
    let text = format!("rank {rank} of {world_size}, rendezvous at {host}:{port}");
    match (host.as_str(), port).to_socket_addrs() {
        Ok(_) => Fine(text),
        Err(e) => {
            Fix(format!("{text}, which cannot be found: {e}"), "set MASTER_ADDR to rank 0's name or address".into())
        }
    }
}
