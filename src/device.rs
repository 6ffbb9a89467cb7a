//! The device and the threads of a run, chosen once at its start.

use crate::bail_hint;
use crate::error::{Result, did_you_mean, one_line};
use crate::ffi;
use crate::output::err;
use crate::tensor::detached_copy;
use std::cell::Cell;
use std::path::PathBuf;
use std::time::Instant;
use tch::{Cuda, Device, Kind, Tensor};

thread_local! {
    static DEVICE: Cell<Device> = const { Cell::new(Device::Cpu) };
}

/// The run's device: where parameters are created and batches are put.
pub fn current() -> Device {
    DEVICE.get()
}

/// A tensor made on the CPU, on another device: numbers that were drawn, labels, masks. A GPU copies it when it gets
/// there, and the host does not wait. Outside any graph.
pub fn upload(tensor: &Tensor, device: Device) -> Result<Tensor> {
    match device {
        Device::Cuda(index) if tensor.device() == Device::Cpu => ffi::upload(tensor, index),
        _ => Ok(tensor.f_to_device(device)?),
    }
}

/// Tensors in bytes that they share, so that one copy brings all of them to a device. They must not be changed in place
/// where a graph holds one of them.
pub struct Packing {
    /// Of each tensor: first byte, bytes, dtype, size.
    places: Vec<(i64, i64, Kind, Vec<i64>)>,
    /// All bytes, from those before the first tensor on.
    pub bytes: i64,
}

impl Packing {
    /// Puts contiguous tensors one behind the other, after `bytes` that come before them.
    pub fn after(bytes: i64, tensors: &[Tensor]) -> Self {
        // A dtype's elements lie at multiples of their size.
        const ALIGNMENT: i64 = 16;
        let mut packing = Packing { places: Vec::new(), bytes };
        for tensor in tensors {
            let start = packing.bytes + (-packing.bytes & (ALIGNMENT - 1));
            let length = (tensor.numel() * tensor.kind().elt_size_in_bytes()) as i64;
            packing.places.push((start, length, tensor.kind(), tensor.size()));
            packing.bytes = start + length;
        }
        packing
    }

    /// Writes the tensors to their places in uint8 [bytes or more], on the CPU.
    pub fn write(&self, tensors: &[Tensor], memory: &Tensor) -> Result<()> {
        for (tensor, (start, length, ..)) in tensors.iter().zip(&self.places) {
            memory.f_narrow(0, *start, *length)?.f_copy_(&tensor.f_view(-1)?.f_view_dtype(Kind::Uint8)?)?;
        }
        Ok(())
    }

    /// The tensors in uint8 [bytes or more], on any device.
    pub fn read(&self, memory: &Tensor) -> Result<Vec<Tensor>> {
        let view = |(start, length, kind, size): &(i64, i64, Kind, Vec<i64>)| -> Result<Tensor> {
            Ok(memory.f_narrow(0, *start, *length)?.f_view_dtype(*kind)?.f_view(size.as_slice())?)
        };
        self.places.iter().map(view).collect()
    }
}

/// Copies of tensors on the CPU, in new memory and outside any graph. A GPU is waited for once.
pub fn download(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    if !tensors.is_empty() && tensors.iter().all(|t| t.device().is_cuda()) {
        return ffi::download(tensors);
    }
    let copy = |t: &Tensor| match t.device() {
        Device::Cpu => detached_copy(t),
        // Moving it has copied it already.
        _ => Ok(t.f_detach()?.f_to_device(Device::Cpu)?),
    };
    tensors.iter().map(copy).collect()
}

/// Refuses a value of NEPA_CPU_KERNELS that is none.
pub fn check_kernels() -> Result<()> {
    const KNOWN: [&str; 4] = ["avx512", "avx2", "plain", "0"];
    match std::env::var("NEPA_CPU_KERNELS") {
        Ok(name) if !KNOWN.contains(&name.as_str()) => bail_hint!(
            "NEPA_CPU_KERNELS: unknown kernels `{name}`{}", did_you_mean(&name, KNOWN);
            "expected avx512, avx2, plain or 0; without it, the best ones for the processor are used"
        ),
        _ => Ok(()),
    }
}

/// Parses `cpu`, `cuda` or `cuda:N` and checks that it exists.
pub fn parse(text: &str) -> Result<Device> {
    let device = match text {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Device::Cuda(0),
        _ => match text.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
            Some(n) => Device::Cuda(n),
            None => bail_hint!(
                "unknown device `{text}`{}", did_you_mean(text, ["cpu", "cuda"]);
                "expected cpu, cuda or cuda:N, where N counts from 0"
            ),
        },
    };
    let Device::Cuda(index) = device else { unreachable!() };
    let libraries = match ffi::open_cuda() {
        Ok(libraries) => libraries,
        Err(e) => bail_hint!(
            "device `{text}` was asked for, but libtorch's CUDA library cannot be opened: {}", one_line(&e);
            "{}, or use --device cpu", repair()
        ),
    };
    let count = if libraries { Cuda::device_count() } else { 0 };
    if !libraries {
        bail_hint!(
            "device `{text}` was asked for, but this libtorch has no CUDA (no libtorch_cuda.so beside libtorch_cpu.so)";
            "{}; or put the torch/lib folder of a PyTorch 2.11 with CUDA on LD_LIBRARY_PATH", repair()
        );
    }
    if index as i64 >= count {
        bail_hint!(
            "device `{text}` was asked for, but libtorch sees {count} CUDA device(s)";
            "check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use --device cpu"
        );
    }
    Ok(device)
}

/// Against a CUDA library that is missing or cannot be opened.
pub fn repair() -> &'static str {
    let of_python = |folder: PathBuf| folder.iter().any(|part| part == "site-packages");
    match ffi::torch_folder().is_some_and(of_python) {
        true => concat!(
            "`pip install --force-reinstall torch==",
            env!("NEPA_LIBTORCH_VERSION"),
            "` brings it with all that it needs"
        ),
        false => "`cargo xtask setup --cuda` fetches it with all that it needs",
    }
}

/// CUDA if libtorch has it and sees a GPU, else the CPU.
fn best(processes: usize) -> Result<Device> {
    match ffi::open_cuda() {
        Ok(true) if Cuda::device_count() > 0 => Ok(Device::Cuda(0)),
        Ok(_) => Ok(Device::Cpu),
        // Others may have opened theirs.
        Err(e) if processes > 1 => bail_hint!(
            "libtorch's CUDA library cannot be opened: {}", one_line(&e);
            "{}; --device cpu runs all processes on the CPU", repair()
        ),
        Err(e) => {
            err!(
                "warning: the run is on the CPU, since libtorch's CUDA library cannot be opened: {}\nhint: {}; \
                 --device cpu runs on the CPU without this warning",
                one_line(&e),
                repair()
            );
            Ok(Device::Cpu)
        }
    }
}

/// The device of local rank `local_rank`, of `processes` on this machine: the one `asked` for, else CUDA if available.
/// Several processes get one GPU each; a batch system may show each only its own, `own_gpu_alone`.
pub fn choose(asked: Option<&str>, local_rank: usize, processes: usize, own_gpu_alone: bool) -> Result<Device> {
    let device = match asked {
        Some(name) => parse(name)?,
        None => best(processes)?,
    };
    if device == Device::Cpu || processes == 1 {
        return Ok(device);
    }
    if let Some(name) = asked.filter(|name| *name != "cuda") {
        bail_hint!(
            "--device {name} names one GPU, but the {processes} processes of this machine need one each";
            "use --device cuda: local rank N gets cuda:N"
        );
    }
    let count = Cuda::device_count() as usize;
    match count {
        1 if own_gpu_alone => Ok(Device::Cuda(0)),
        // Of all processes, so that all say the same.
        _ if processes <= count => Ok(Device::Cuda(local_rank)),
        _ => bail_hint!(
            "{processes} processes were started on this machine, but libtorch sees {count} GPU{}",
            if count == 1 { "" } else { "s" };
            "start as many processes as there are GPUs, or use --device cpu"
        ),
    }
}

/// Sets the run's device and thread count. libtorch has its own threads; rayon's, which fill batches while libtorch
/// computes, get the same number.
pub fn set(device: Device, threads: usize) -> Result<()> {
    check_kernels()?;
    ffi::set_cpu_allocator(crate::memory::total())?;
    DEVICE.set(device);
    ffi::autocast_on_cuda(device.is_cuda());
    if let Device::Cuda(index) = device {
        ffi::set_cuda_device(index)?;
    }
    tch::set_num_threads(threads as i32);
    ffi::single_threaded_backward();
    ffi::allow_tf32(false)?;
    // Fails only when the pool exists already, as in tests that share a process.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    Ok(())
}

/// Floating-point operations a second of plain matrix products (a·aᵀ, as in a linear layer) on the run's device: the
/// median over about a second. The matrices are square, with side 8192 on CUDA and 2048 on a CPU, or less for a slow
/// dtype: a CPU without bfloat16 instructions takes minutes for a product of side 2048.
pub fn matmul_rate(kind: Kind) -> Result<f64> {
    let device = current();
    let wait = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    let _no_graph = tch::no_grad_guard();
    let product = |a: &Tensor| -> Result<f64> {
        wait();
        let start = Instant::now();
        let _ = a.f_linear(a, None::<&Tensor>)?;
        wait();
        Ok(start.elapsed().as_secs_f64())
    };
    let most = if device == Device::Cpu { 2048 } else { 8192 };
    let mut side = 256;
    let mut a = Tensor::f_randn([side, side], (kind, device))?;
    product(&a)?; // the first one sets things up
    // Twice the side takes eight times as long.
    while side < most && 8.0 * product(&a)? < 0.5 {
        side *= 2;
        a = Tensor::f_randn([side, side], (kind, device))?;
    }
    let (start, mut seconds) = (Instant::now(), Vec::new());
    while seconds.is_empty() || start.elapsed().as_secs_f64() < 1.0 {
        seconds.push(product(&a)?);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(2.0 * (side as f64).powi(3) / seconds[seconds.len() / 2])
}

/// A device as the command line writes it.
pub fn name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".into(),
        Device::Cuda(n) => format!("cuda:{n}"),
        other => format!("{other:?}").to_lowercase(),
    }
}
