//! A run whose system calls fail, or that is killed at one of them, and what must be true then.
//!
//! `preload.c`, loaded into nepa, counts the calls on paths in the run directory and strikes one. So every point of a
//! run can be tried in turn, without root and without a full disk.

use super::{Ended, Folder, Outcome, Said, assert_checkpoints_whole, copy, is_unfinished, outcome};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The run directory. Errors are searched for its name, which occurs nowhere else.
const OUT: &str = "the-run";

/// Two loops with all kinds of files: checkpoints, some of which are removed again, evaluations, models that are
/// replaced, a text, a table and a chart.
const RECIPE: &str = r#"
import "std/pretrain" as pretrain;
import "std/finetune" as finetune;
import "std/evaluate" as evaluate;
let images = data::synthetic(#{ len: 12, size: 8, classes: 2, seed: 1 });
let model = nn::vit_nepa(#{
    image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2,
    intermediate_size: 16, drop_path_prob: 0.2,
});
let often = #{ batch: 4, log_every: 1, save_every: 2, keep: 1, transforms: [transform::random_horizontal_flip(), transform::normalize(0.5, 0.5)] };
run::log(#{ note: "begins" });
pretrain::fit(model, images, often + #{ steps: 3 });
let classifier = finetune::classifier(model, 2, #{});
let result = finetune::fit(classifier, images, often + #{
    epochs: 2, lr: 0.02, evaluate: #{ images: images, best: "best" },
});
checkpoint::save(classifier, run::path("model"));
let scores = evaluate::classify(classifier, images, #{ predictions: run::path("predictions.csv") });
plot::lines(run::path("loss.png"), #{ loss: result.history }, #{ x: "step" });
run::write("scores.txt", `${scores.top1} ${scores.loss} ${randn([1]).item()}`);
run::log(#{ note: "ended" });
"#;

/// Kinds of calls that change something on the disk.
const CHANGES: &str = "create,write,sync,rename,mkdir,remove,mode";
/// Kinds of calls that take up room on it.
const GROWTH: &str = "create,write,sync,rename,mkdir";

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// The process is killed before it.
    Kill,
    /// The process is killed when half of it is done; after it, where there are no halves.
    Torn,
    /// It does half of its bytes.
    Short,
    /// It fails with an error.
    Error(i32),
}

/// A way to strike each call of some kinds in turn.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    pub name: &'static str,
    kinds: &'static str,
    blow: Blow,
    /// Whether all later ones of these kinds fail too.
    lasts: bool,
}

/// Everything that is done to a run.
pub const ATTACKS: &[Attack] = &[
    Attack { name: "killed before a call", kinds: CHANGES, blow: Blow::Kill, lasts: false },
    Attack { name: "killed in a write or after a rename", kinds: "write,rename", blow: Blow::Torn, lasts: false },
    Attack { name: "ENOSPC once", kinds: GROWTH, blow: Blow::Error(libc::ENOSPC), lasts: false },
    Attack { name: "ENOSPC from there on", kinds: GROWTH, blow: Blow::Error(libc::ENOSPC), lasts: true },
    Attack { name: "EIO once, changing", kinds: CHANGES, blow: Blow::Error(libc::EIO), lasts: false },
    Attack { name: "EIO once, reading", kinds: "open,read,map,list,stat", blow: Blow::Error(libc::EIO), lasts: false },
    Attack { name: "EIO from there on", kinds: "read,map,write,sync", blow: Blow::Error(libc::EIO), lasts: true },
    Attack { name: "EROFS from there on", kinds: CHANGES, blow: Blow::Error(libc::EROFS), lasts: true },
    Attack { name: "EMFILE once", kinds: "create,open,list", blow: Blow::Error(libc::EMFILE), lasts: false },
    Attack { name: "EINTR once", kinds: "create,open,read,write,sync", blow: Blow::Error(libc::EINTR), lasts: false },
    Attack { name: "half a write or read", kinds: "write,read", blow: Blow::Short, lasts: false },
];

/// Where a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With its first step.
    Fresh,
    /// With what a killed one has left.
    Resumed,
}

/// A call that an attack strikes: the n-th of its kinds, counted from 1.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    pub start: Start,
    pub attack: Attack,
    pub n: usize,
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, {}, call {}", self.start, self.attack.name, self.n)
    }
}

/// One call that was counted.
#[derive(Debug, Clone)]
struct Call {
    kind: String,
    path: String,
    struck: bool,
}

/// The run undisturbed, with which all others are compared.
pub struct Undisturbed {
    outcome: Outcome,
    /// Where resumed runs begin: a folder with the run directory.
    killed: Folder,
    fresh_calls: Vec<Call>,
    resumed_calls: Vec<Call>,
}

impl Undisturbed {
    /// Makes the run without a fault, and once more until it is killed in the middle of its second loop.
    pub fn new() -> Self {
        let (fresh, killed, resumed) = (folder(), folder(), folder());
        let every = Attack { name: "counting", kinds: "", blow: Blow::Error(0), lasts: false };
        let (said, fresh_calls) = run(&fresh, every, 0);
        said.said().succeeds();

        let kinds = Attack { kinds: "rename", blow: Blow::Kill, ..every };
        let renames = fresh_calls.iter().filter(|call| call.kind == "rename");
        let place = renames.clone().position(|call| call.path.ends_with("finetune/step-00000004")).unwrap();
        let (ended, _) = run(&killed, kinds, place + 1);
        assert!(matches!(ended, Ended::Killed(_)), "not killed before a checkpoint's rename");

        copy(&killed.path(OUT), &resumed.path(OUT));
        let (said, resumed_calls) = run(&resumed, every, 0);
        said.said().succeeds().says(&["finetune: resumed from step 2"]);
        let whole = Self { outcome: outcome(&fresh.path(OUT)), killed, fresh_calls, resumed_calls };
        whole.outcome.assert_same(&resumed.path(OUT));
        whole
    }

    /// All points of an attack.
    pub fn points(&self, start: Start, attack: Attack) -> Vec<Point> {
        let calls = if start == Start::Fresh { &self.fresh_calls } else { &self.resumed_calls };
        let number = calls.iter().filter(|call| attack.kinds.split(',').any(|kind| kind == call.kind)).count();
        (1..=number).map(|n| Point { start, attack, n }).collect()
    }

    /// Strikes one call. The run goes on as if nothing had been, or says why not and leaves nothing by halves; run
    /// again, it ends with the same files as the undisturbed one. Says what was struck and what became of it.
    pub fn strike(&self, point: Point) -> String {
        let folder = folder();
        if point.start == Start::Resumed {
            copy(&self.killed.path(OUT), &folder.path(OUT));
        }
        let (ended, calls) = run(&folder, point.attack, point.n);
        let struck: Vec<&Call> = calls.iter().filter(|call| call.struck).collect();
        let Some(first) = struck.first() else {
            self.outcome.assert_same(&folder.path(OUT));
            return "not reached".into();
        };
        let place = format!("{} {}", first.kind, first.path);
        self.assert_nothing_by_halves(&folder);
        let (said, what) = match ended {
            Ended::Killed(said) => (said, "killed"),
            Ended::Said(said) if said.code == Some(0) => {
                assert_eq!(state(&folder).as_deref(), Some("finished"), "{place}: {said}");
                // Not from the first step again, because a fault hid the checkpoints.
                let resumed = ["pretrain: resumed from step 3", "finetune: resumed from step 2"];
                let resumes = resumed.iter().all(|line| said.stderr.contains(line));
                assert!(resumes || point.start == Start::Fresh, "{place}: begins anew: {said}");
                self.outcome.assert_same(&folder.path(OUT));
                return format!("{place}: went on");
            }
            Ended::Said(said) => {
                assert_ne!(state(&folder).as_deref(), Some("finished"), "{place}: {said}");
                assert_says_why(&said, point.attack.blow, &struck);
                (said, "said why")
            }
        };
        let again = run(&folder, Attack { kinds: "none", ..point.attack }, 0).0.said();
        assert_eq!(again.code, Some(0), "{place}: the next run: {again}\n---- after {said}");
        self.outcome.assert_same(&folder.path(OUT));
        let left: Vec<String> = paths(&folder).into_keys().filter(|path| is_unfinished(path)).collect();
        assert!(left.is_empty(), "{place}: left over: {left:?}");
        format!("{place}: {what}")
    }

    /// What lies under its final name is whole: the very bytes of the undisturbed run, or lines of a log that grows.
    fn assert_nothing_by_halves(&self, folder: &Folder) {
        for (path, file) in paths(folder).iter().filter(|(path, _)| !is_unfinished(path)) {
            let bytes = std::fs::read(file).unwrap();
            if path == "run.json" {
                let run: Value = serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{path}: {e}"));
                assert!(run["state"].is_string(), "{path}: {run}");
            } else if path != "metrics.jsonl" && !path.starts_with("best/") {
                // Metrics may end with a line by halves, and the best model so far may be another one.
                assert!(self.outcome.has(path, &bytes), "{path} differs from the undisturbed run's");
            }
            if path.ends_with("model.safetensors") {
                safetensors::SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{path}: {e}"));
            }
        }
        assert_checkpoints_whole(&folder.path(OUT));
    }
}

/// A folder with the recipe.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("recipe.rhai", RECIPE);
    folder
}

/// Runs the recipe while the n-th call of an attack is struck; counts all calls where it names no kinds.
fn run(folder: &Folder, attack: Attack, n: usize) -> (Ended, Vec<Call>) {
    const ALL: &str = "create,write,sync,rename,mkdir,remove,mode,open,read,map,list,stat";
    let log = folder.path("calls.log");
    let _ = std::fs::remove_file(&log);
    let kinds = format!(",{},", if attack.kinds.is_empty() { ALL } else { attack.kinds });
    let blow = match attack.blow {
        Blow::Kill => "kill".into(),
        Blow::Torn => "torn".into(),
        Blow::Short => "short".into(),
        Blow::Error(number) => number.to_string(),
    };
    let (number, below) = (n.to_string(), folder.path(OUT).display().to_string());
    let log_path = log.display().to_string();
    let mut environment = strike(&below, &kinds, &number, &blow);
    environment.push(("FAULT_LOG", &log_path));
    // Or nepa starts itself once more to set it.
    environment.push(("GOMP_SPINCOUNT", "1000"));
    if attack.lasts {
        environment.push(("FAULT_LASTS", "1"));
    }
    let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--out", OUT];
    let ended = folder.start(&args, &environment).end();
    let log = std::fs::read_to_string(&log).unwrap_or_default();
    let calls = log.lines().map(|line| {
        let (rest, struck) = line.strip_suffix(" !").map_or((line, false), |rest| (rest, true));
        let mut words = rest.splitn(3, ' ').skip(1);
        let kind = words.next().unwrap_or_default().to_string();
        let path = words.next().unwrap_or_default().strip_prefix(&below).unwrap_or_default();
        Call { kind, path: format!("{OUT}{path}"), struck }
    });
    (ended, calls.collect())
}

/// The environment of a process in which the call number `at` of these kinds (",write,sync,") below a folder meets a blow,
/// as `preload.c` has them.
pub fn strike<'a>(below: &'a str, kinds: &'a str, at: &'a str, blow: &'a str) -> Vec<(&'a str, &'a str)> {
    let library = library().to_str().unwrap();
    let what = [("FAULT_BELOW", below), ("FAULT_KINDS", kinds), ("FAULT_AT", at), ("FAULT_DO", blow)];
    std::iter::once(("LD_PRELOAD", library)).chain(what).collect()
}

/// `preload.c`, compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = super::repository("tests/it/common/preload.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("preload-{}.so", std::process::id()));
        let mut compiler = Command::new("c++");
        compiler.args(["-x", "c", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-o"]);
        let output = compiler.arg(&library).arg(source).output().unwrap_or_else(|e| panic!("c++: {e}"));
        assert!(output.status.success(), "c++: {}", String::from_utf8_lossy(&output.stderr));
        library
    })
}

/// The error has the cause, and the file that was struck or the folder that it lies in. One that is being written
/// beside its destination need not be named.
fn assert_says_why(said: &Said, blow: Blow, struck: &[&Call]) {
    let place = struck.first().map(|call| format!("{} {}", call.kind, call.path)).unwrap_or_default();
    let Blow::Error(number) = blow else { panic!("{place}: no reason to fail: {said}") };
    assert_ne!(number, libc::EINTR, "{place}: an interrupted call is made again: {said}");
    assert_eq!(said.code, Some(1), "{place}: {said}");
    let cause = std::io::Error::from_raw_os_error(number).to_string();
    // The standard library keeps to itself why it could not look at a file.
    let looking = struck.iter().all(|call| call.kind == "stat");
    assert!(looking || said.stderr.contains(&cause), "{place}: should say `{cause}`: {said}");
    let named = struck.iter().any(|call| {
        let known: Vec<&str> = call.path.split('/').take_while(|name| !is_unfinished(name)).collect();
        let folder = known[..known.len() - usize::from(known.len() > 1)].join("/");
        said.stderr.contains(&known.join("/")) || said.stderr.contains(&folder)
    });
    assert!(named, "{place}: should name the file: {said}");
}

/// The state that the run has by its directory.
fn state(folder: &Folder) -> Option<String> {
    let text = std::fs::read(folder.path(&format!("{OUT}/run.json"))).ok()?;
    let run: Value = serde_json::from_slice(&text).unwrap();
    Some(run["state"].as_str()?.to_string())
}

/// The files of the run directory, by their paths in it.
fn paths(folder: &Folder) -> BTreeMap<String, PathBuf> {
    let root = folder.path(OUT);
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().display().to_string();
    super::files(&root).into_iter().map(|path| (name(&path), path)).collect()
}
