//! What is fuzzed: each target reads bytes as a user's file. An error is an answer; a panic, an abort, a hang or a
//! request for more than a gigabyte is a fault. tests/it/fuzzing.rs includes this file.

use nepa::checkpoint::{ConfigFile, manifest, shards, tensors};
use nepa::data::decode::{self, LazyImage};
use nepa::data::image::{Mode, Region};
use nepa::data::source::{self, Source, StoredImage};
use nepa::run::signals::Interrupt;
use nepa::run::{CheckpointState, RunFile};
use nepa::script::Host;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};

/// What reads bytes, and how it is chosen.
pub struct Target {
    pub name: &'static str,
    pub read: fn(&Bench, &[u8]),
}

/// All targets; seeds.txt has the files that each begins with.
pub const TARGETS: &[Target] = &[
    Target { name: "jpeg", read: image },
    Target { name: "png", read: image },
    Target { name: "tiff", read: image },
    Target { name: "gif", read: image },
    Target { name: "webp", read: image },
    Target { name: "bitmap", read: image },
    Target { name: "tar", read: tar },
    Target { name: "parquet", read: parquet },
    Target { name: "arrow", read: arrow },
    Target { name: "datasets", read: datasets },
    Target { name: "idx", read: idx },
    Target { name: "cifar", read: cifar },
    Target { name: "safetensors", read: safetensors },
    Target { name: "torch", read: torch },
    Target { name: "json", read: json },
    Target { name: "recipe", read: recipe },
];

/// Ends the process where nepa's own code panics. Panics of other projects' parsers are contained where they read.
pub fn end_at_own_panics() {
    std::panic::set_hook(Box::new(|info| {
        let foreign = ["/registry/", "/rustc/"];
        if !info.location().is_some_and(|at| foreign.iter().any(|part| at.file().contains(part))) {
            eprintln!("{info}");
            std::process::abort();
        }
    }));
}

/// A folder for the files, and the host of recipes.
pub struct Bench {
    folder: tempfile::TempDir,
    host: OnceCell<Host>,
}

impl Bench {
    pub fn new() -> Self {
        // In memory where the system has that.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self { folder: folder.expect("a temporary folder"), host: OnceCell::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("in the folder")).expect("a folder");
        std::fs::write(&path, bytes).expect("a file");
        path
    }
}

/// What decoding may make of an image of so few bytes without taking long.
const FEW_PIXELS: usize = 1 << 20;

fn image(_: &Bench, bytes: &[u8]) {
    let mut content = StoredImage::Encoded(Cow::Borrowed(bytes));
    let _ = LazyImage::open_as(&mut content, true, Mode::Unchanged);
    let Ok(image) = LazyImage::open(&mut content, true) else { return };
    let (width, height) = image.size();
    let is_small = width * height <= FEW_PIXELS;
    let corner = |n: usize| if is_small { n / 2 } else { 0 };
    let (left, top) = (corner(width), corner(height));
    let size = |n: usize, from: usize| if is_small { n - from } else { n.min(16) };
    let region = Region { left, top, width: size(width, left), height: size(height, top) };
    if let Ok(part) = image.decode_region(region) {
        let part = part.crop();
        assert_eq!((part.width, part.height), (region.width, region.height));
    }
    if is_small {
        let _ = decode::complaint(&mut StoredImage::Encoded(Cow::Borrowed(bytes)), Mode::Rgb);
    }
}

/// Opens what lies at a path, and reads some of its items.
fn open(path: &Path) {
    let Ok(source) = source::open(&path.display().to_string(), None) else { return };
    items(&*source);
}

fn items(source: &dyn Source) {
    const SOME: usize = 8;
    let n = source.len();
    let _ = source::class_counts(source);
    for k in 0..SOME.min(n) {
        let index = k * n / SOME.min(n);
        let _ = (source.name(index), source.label(index));
        let _ = source.read(index);
    }
    let _ = source.read(n - 1);
}

fn tar(bench: &Bench, bytes: &[u8]) {
    open(&bench.write("a.tar", bytes));
}

fn parquet(bench: &Bench, bytes: &[u8]) {
    open(&bench.write("a.parquet", bytes));
}

fn arrow(bench: &Bench, bytes: &[u8]) {
    let data = bench.write("arrow/data.arrow", bytes);
    bench.write("arrow/dataset_info.json", b"{}");
    bench.write("arrow/state.json", br#"{ "_data_files": [{ "filename": "data.arrow" }] }"#);
    open(data.parent().expect("in a folder"));
}

/// A table of one shared file, described by the bytes.
fn datasets(bench: &Bench, bytes: &[u8]) {
    let table = include_bytes!("../../tests/fixtures/data/hf-disk/validation/data-00000-of-00001.arrow");
    let name = "one/data-00000-of-00001.arrow";
    if !bench.path(name).is_file() {
        bench.write(name, table);
    }
    let plain = include_bytes!("../../tests/fixtures/data/hf-disk/validation/state.json");
    for (state, info) in [(bytes, &b"{}"[..]), (plain, bytes)] {
        bench.write("one/state.json", state);
        bench.write("one/dataset_info.json", info);
        open(&bench.path("one"));
    }
    bench.write("dict/dataset_dict.json", bytes);
    let _ = source::splits(&bench.path("dict").display().to_string());
}

/// The images, whose length comes first, and then the labels; either may be packed.
fn idx(bench: &Bench, bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let (images, labels) = rest.split_at(rest.len().min(u16::from_le_bytes(*length) as usize));
    let _ = std::fs::remove_dir_all(bench.path("idx"));
    for (name, content) in [("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)] {
        let packed = if content.starts_with(b"\x1f\x8b") { ".gz" } else { "" };
        bench.write(&format!("idx/train-{name}{packed}"), content);
    }
    open(&bench.path("idx"));
}

/// The test images of each version, and then its names of classes.
fn cifar(bench: &Bench, bytes: &[u8]) {
    macro_rules! file {
        ($name:literal) => {
            ($name, &include_bytes!(concat!("../../tests/fixtures/cifar/", $name))[..])
        };
    }
    let versions = [
        [file!("cifar-10-batches-bin/test_batch.bin"), file!("cifar-10-batches-bin/batches.meta.txt")],
        [file!("cifar-10-batches-py/test_batch"), file!("cifar-10-batches-py/batches.meta")],
        [file!("cifar-100-binary/test.bin"), file!("cifar-100-binary/fine_label_names.txt")],
        [file!("cifar-100-python/test"), file!("cifar-100-python/meta")],
    ];
    for [(images, plain_images), (names, plain_names)] in versions {
        for (images_bytes, names_bytes) in [(bytes, plain_names), (plain_images, bytes)] {
            let path = bench.write(images, images_bytes);
            bench.write(names, names_bytes);
            let folder = path.parent().expect("in a folder").display().to_string();
            if let Ok(source) = source::open(&folder, Some("test")) {
                items(&*source);
            }
        }
    }
}

fn safetensors(bench: &Bench, bytes: &[u8]) {
    tensors_in(&bench.write("a.safetensors", bytes));
}

fn torch(bench: &Bench, bytes: &[u8]) {
    tensors_in(&bench.write("a.pt", bytes));
}

fn tensors_in(path: &Path) {
    match tensors::read(path) {
        Ok(file) => {
            file.left_out();
            // Memory that a tensor claims to have must be there.
            for (_, tensor) in file.tensors.iter().filter(|(_, tensor)| tensor.numel() <= FEW_PIXELS) {
                let _ = tensor.f_isfinite().and_then(|finite| finite.f_all());
            }
        }
        Err(e) => assert!(!format!("{e:#}").contains("allocate memory"), "{e:#}"),
    }
}

/// The files of a model and of a run.
fn json(bench: &Bench, bytes: &[u8]) {
    let names = ["config.json", "model.safetensors.index.json", "run.json", "state.json", "manifest.json"];
    let [config, index, ..] = names.map(|name| bench.write(&format!("run/{name}"), bytes));
    let dir = bench.path("run");
    let _ = ConfigFile::read(&config).map(|file| file.to_json());
    let _ = shards::files(&index);
    let _ = RunFile::read(&dir).map(|file| file.status(Some(false)));
    let _ = CheckpointState::read(&dir);
    let _ = manifest::verify(&dir);
    let lines = bytes.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let _ = nepa::run::tensorboard::rewrite(&bench.path("run/events"), lines);
}

/// Compiles and checks a recipe; it is not run.
fn recipe(bench: &Bench, bytes: &[u8]) {
    let host = bench.host.get_or_init(|| Host::new(None, Interrupt::default()));
    let path = bench.write("recipe.rhai", bytes);
    match host.compile(&path).and_then(|ast| host.check(&ast, &path)) {
        Err(report) => drop(report.render(&host.sources)),
        Ok(checked) => {
            for problem in checked.problems.iter().chain(&checked.warnings) {
                host.render_problem(problem);
            }
        }
    }
}
