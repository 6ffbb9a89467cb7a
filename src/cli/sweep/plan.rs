//! `sweep.json`: which runs a sweep consists of, and what a command adds to them.

use super::values::{Axis, SEED, text};
use crate::bail_hint;
use crate::error::{Result, ensure};
use crate::files::{read_json, write_atomic};
use crate::run::inside;
use crate::run::schema::{ScriptRecord, to_json};
use crate::script::Declared;
use crate::untrusted::MOST_TEXT;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// The most runs of a sweep.
const MOST_RUNS: usize = 10_000;
/// Most bytes in the name of a run's folder.
const MOST_NAME: usize = 150;

/// `sweep.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SweepFile {
    /// The recipe's path, as given.
    pub recipe: String,
    /// When the sweep was started (UTC).
    pub started: String,
    /// The command line that added to it last.
    pub command: Vec<String>,
    /// The scripts of its runs, the recipe first.
    pub scripts: Vec<ScriptRecord>,
    /// Options of `nepa run` that its runs have.
    pub options: RunOptions,
    /// Whether the seed is an option of `nepa run` and not a parameter of the recipe.
    pub seed_is_option: bool,
    /// The values of each parameter that was set, over all commands.
    pub values: Map<String, Value>,
    /// Parameters that were written as lists or ranges.
    pub swept: Vec<String>,
    /// Its runs.
    pub runs: Vec<PlannedRun>,
}

/// Options that are handed on to `nepa run`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunOptions {
    /// The device.
    pub device: Option<String>,
    /// CPU threads of each process; none: the cores are shared out.
    pub threads: Option<u16>,
    /// Processes of each run.
    pub nproc: Option<u16>,
    /// Seconds that the processes of a run wait for each other.
    pub dist_timeout: Option<u64>,
    /// The seed of runs that are given none.
    pub seed: Option<u64>,
}

/// A run of a sweep.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedRun {
    /// Its folder in the sweep's.
    pub name: String,
    /// The parameters that it is given.
    pub params: Map<String, Value>,
}

impl SweepFile {
    /// The file's name.
    pub const NAME: &str = "sweep.json";

    /// Whether `dir` is a sweep's directory.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(Self::NAME).is_file()
    }

    /// Reads it from a sweep's directory, and checks that each run lies in it.
    pub fn read(dir: &Path) -> Result<Self> {
        inside::check(dir, Self::NAME, MOST_TEXT)?;
        let file: Self = read_json(&dir.join(Self::NAME))?;
        ensure!(
            file.runs.len() <= MOST_RUNS,
            "{} lists {} runs, more than {MOST_RUNS}",
            dir.display(),
            file.runs.len()
        );
        let mut known = HashSet::new();
        for run in &file.runs {
            let is_name = !run.name.is_empty() && !run.name.starts_with('.') && !run.name.contains(['/', '\\', '\0']);
            ensure!(is_name, "{}: \"{}\" is no name of a run's folder", dir.join(Self::NAME).display(), run.name);
            ensure!(known.insert(&run.name), "{}: two runs are called {}", dir.join(Self::NAME).display(), run.name);
            inside::path_in(dir, Path::new(&run.name))?;
        }
        Ok(file)
    }

    /// Writes it to a sweep's directory.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_atomic(&dir.join(Self::NAME), &to_json(self)?)
    }

    /// Adds the runs of a command to those there are; gives the places of all that it names.
    pub fn add(&mut self, axes: &[Axis], declared: &[Declared]) -> Result<Vec<usize>> {
        let defaults = self.defaults(declared);
        self.refuse_other_constants(axes, &defaults)?;
        let complete = |params: &Map<String, Value>| json!(with_defaults(params, &defaults)).to_string();
        let places = self.runs.iter().enumerate().map(|(place, run)| (complete(&run.params), place));
        let mut places: HashMap<String, usize> = places.collect();
        let mut taken: HashSet<String> = self.runs.iter().map(|run| run.name.to_lowercase()).collect();
        let mut named = Vec::new();
        for params in product(axes)? {
            let params: Map<String, Value> = params.into_iter().collect();
            let place = *places.entry(complete(&params)).or_insert(self.runs.len());
            if place == self.runs.len() {
                self.runs.push(PlannedRun { name: new_name(&params, axes, &mut taken), params });
            }
            named.push(place);
        }
        ensure!(self.runs.len() <= MOST_RUNS, "a sweep has at most {MOST_RUNS} runs, here are {}", self.runs.len());
        for axis in axes {
            let known = self.values.entry(&axis.name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(known) = known {
                let new: Vec<Value> = axis.values.iter().filter(|value| !known.contains(value)).cloned().collect();
                known.extend(new);
            }
            if axis.is_list && !self.swept.contains(&axis.name) {
                self.swept.push(axis.name.clone());
            }
        }
        self.fill_in(&defaults);
        Ok(named)
    }

    /// What a run has that is not given a parameter: the recipe's default, and the sweep's seed where that is an option.
    fn defaults(&self, declared: &[Declared]) -> Map<String, Value> {
        let mut all: Map<_, _> = declared.iter().filter_map(|d| Some((d.name.clone(), d.default_value()?))).collect();
        if self.seed_is_option {
            all.insert(SEED.into(), self.seed().into());
        }
        all
    }

    /// The seed of runs that are given none.
    fn seed(&self) -> u64 {
        self.options.seed.unwrap_or(0)
    }

    /// A parameter that only some commands have set has its default in the runs of the others.
    fn fill_in(&mut self, defaults: &Map<String, Value>) {
        for (name, value) in defaults.iter().filter(|(name, _)| self.values.contains_key(*name)) {
            for run in &mut self.runs {
                run.params.entry(name).or_insert_with(|| value.clone());
            }
        }
    }

    /// The sweep's seed may not silently become another one, which the new runs alone would have.
    pub fn refuse_other_seed(&self, now: Option<u64>) -> Result<()> {
        let was = self.seed();
        if let Some(now) = now.filter(|now| *now != was && !self.runs.is_empty()) {
            let instead = match self.seed_is_option {
                true => format!("try both: --set {SEED}=[{was},{now}]"),
                false => "leave out --seed".into(),
            };
            bail_hint!(
                "this sweep has --seed {was}, now it is {now}";
                "choose another directory with --out, or {instead}"
            );
        }
        Ok(())
    }

    /// A parameter that has one value in all runs so far may not silently get another one: the results would not be
    /// comparable.
    fn refuse_other_constants(&self, axes: &[Axis], defaults: &Map<String, Value>) -> Result<()> {
        let Some(first) = self.runs.first() else { return Ok(()) };
        let default = |name: &str| defaults.get(name).cloned();
        let before = |run: &PlannedRun, name: &str| run.params.get(name).cloned().or_else(|| default(name));
        let mut names: Vec<&str> = first.params.keys().map(String::as_str).collect();
        names.extend(axes.iter().map(|axis| axis.name.as_str()).filter(|name| !first.params.contains_key(*name)));
        for name in names {
            let axis = axes.iter().find(|axis| axis.name == name);
            let now = match axis {
                Some(Axis { is_list: true, .. }) => continue,
                Some(axis) => axis.values.first().cloned(),
                None => default(name),
            };
            let was = before(first, name);
            let is_constant = self.runs.iter().all(|run| before(run, name) == was);
            if !is_constant || was == now || self.swept.iter().any(|swept| swept == name) {
                continue;
            }
            let shown = |value: &Option<Value>| value.as_ref().map_or("the recipe's default".to_string(), text);
            let both: Vec<String> = [&was, &now].into_iter().flatten().map(text).collect();
            bail_hint!(
                "the runs of this sweep have {name}={}, now it is {}", shown(&was), shown(&now);
                "choose another directory with --out, or try both: --set {name}=[{}]", both.join(",")
            );
        }
        Ok(())
    }
}

/// A name for a new run: the parameters that are swept, in characters that any file system accepts. It is added to the
/// names that are taken, which are in lower case.
fn new_name(params: &Map<String, Value>, axes: &[Axis], taken: &mut HashSet<String>) -> String {
    let swept = |name: &str| axes.iter().any(|axis| axis.name == name && axis.is_list);
    let of = |kept: &dyn Fn(&str) -> bool| {
        let pairs = params.iter().filter(|(name, _)| kept(name)).map(|(name, value)| format!("{name}={}", text(value)));
        plain(&pairs.collect::<Vec<_>>().join(","))
    };
    let numbered = (2..).map(|n| format!("run-{n}"));
    let mut candidates = [of(&swept), of(&|_| true)].into_iter().chain(numbered);
    candidates.find(|name| taken.insert(name.to_lowercase())).expect("an endless list")
}

/// The parameters in a fixed order, with the defaults of those that are not given.
fn with_defaults<'a>(
    params: &'a Map<String, Value>,
    defaults: &'a Map<String, Value>,
) -> BTreeMap<&'a String, &'a Value> {
    defaults.iter().chain(params).collect()
}

/// Every combination of the values; the last axis changes fastest.
fn product(axes: &[Axis]) -> Result<Vec<Vec<(String, Value)>>> {
    let count = axes.iter().fold(1_usize, |n, axis| n.saturating_mul(axis.values.len()));
    if count > MOST_RUNS {
        let factors: Vec<String> = axes.iter().map(|axis| axis.values.len().to_string()).collect();
        bail_hint!("{} = {count} runs are more than a sweep has", factors.join(" x "); "{MOST_RUNS} at most");
    }
    let mut all = vec![Vec::new()];
    for axis in axes {
        let longer = |run: &Vec<(String, Value)>| {
            let run = run.clone();
            axis.values.iter().map(move |value| [run.clone(), vec![(axis.name.clone(), value.clone())]].concat())
        };
        all = all.iter().flat_map(longer).collect();
    }
    Ok(all)
}

/// The text in letters that any file system accepts; a checksum tells apart what became the same.
fn plain(text: &str) -> String {
    if text.is_empty() {
        return "run".into();
    }
    let allowed = |c: char| c.is_alphanumeric() || "=,.+-_".contains(c);
    let mut plain: String = text.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    while plain.len() > MOST_NAME {
        plain.pop();
    }
    // A name that begins with a dot is hidden.
    plain = plain.trim_start_matches('.').to_string();
    if plain == text { plain } else { format!("{plain}-{:08x}", crc32fast::hash(text.as_bytes())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(name: &str, values: Value, is_list: bool) -> Axis {
        Axis { name: name.into(), values: values.as_array().unwrap().clone(), is_list }
    }

    fn names(file: &SweepFile) -> Vec<&str> {
        file.runs.iter().map(|run| run.name.as_str()).collect()
    }

    #[test]
    fn more_values_add_runs_and_keep_those_there_are() {
        let mut file = SweepFile::default();
        let constant = axis("model", json!(["small"]), false);
        let seeds = axis("seed", json!([0, 1]), true);
        file.add(&[axis("lr", json!([0.001]), false), seeds.clone(), constant.clone()], &[]).unwrap();
        assert_eq!(names(&file), ["seed=0", "seed=1"]);
        let named = file.add(&[axis("lr", json!([1e-5, 0.001]), true), seeds, constant], &[]).unwrap();
        assert_eq!(named, [2, 3, 0, 1]);
        assert_eq!(names(&file), ["seed=0", "seed=1", "lr=1e-5,seed=0", "lr=1e-5,seed=1"]);
        assert_eq!(json!(file.values), json!({ "lr": [0.001, 1e-5], "seed": [0, 1], "model": ["small"] }));
        let other = file.add(&[axis("lr", json!([1.0]), true), axis("model", json!(["base"]), false)], &[]);
        assert!(other.unwrap_err().to_string().contains("have model=small, now it is base"));
    }

    /// The seed is no parameter of the recipe: runs without one have that of the sweep.
    #[test]
    fn seeds_that_are_added_later_complete_the_runs_there_are() {
        for (seed, named, seeds) in [(None, [0, 2, 1, 3], [0, 0, 1, 1]), (Some(7), [2, 3, 4, 5], [7, 7, 0, 1])] {
            let options = RunOptions { seed, ..RunOptions::default() };
            let mut file = SweepFile { seed_is_option: true, options, ..SweepFile::default() };
            let lr = axis("lr", json!([0.1, 0.2]), true);
            file.add(std::slice::from_ref(&lr), &[]).unwrap();
            assert_eq!(json!(file.runs[1].params), json!({ "lr": 0.2 }));
            assert_eq!(file.add(&[lr, axis("seed", json!([0, 1]), true)], &[]).unwrap(), named);
            let found: Vec<&Value> = file.runs[..4].iter().map(|run| &run.params["seed"]).collect();
            assert_eq!(json!(found), json!(seeds));
        }
    }

    #[test]
    fn a_sweep_has_one_seed_of_its_own() {
        let mut file = SweepFile { seed_is_option: true, ..SweepFile::default() };
        // Nothing has it yet.
        file.refuse_other_seed(Some(5)).unwrap();
        file.add(&[axis("lr", json!([0.1]), true)], &[]).unwrap();
        file.refuse_other_seed(None).unwrap();
        file.refuse_other_seed(Some(0)).unwrap();
        let error = file.refuse_other_seed(Some(5)).unwrap_err();
        assert!(error.to_string().contains("this sweep has --seed 0, now it is 5"), "{error}");
        let constant = file.add(&[axis("seed", json!([3]), false)], &[]);
        assert!(constant.unwrap_err().to_string().contains("have seed=0, now it is 3"));
    }

    #[test]
    fn names_are_fit_for_file_systems_and_unique() {
        let mut file = SweepFile::default();
        let values = json!(["a/b", "a:b", "A/B", "x".repeat(300), "../..", ""]);
        file.add(&[axis("p", values, true)], &[]).unwrap();
        let found = names(&file);
        assert!(found.iter().all(|name| name.len() < 170 && !name.contains(['/', ':'])), "{found:?}");
        let lower: HashSet<String> = found.iter().map(|name| name.to_lowercase()).collect();
        assert_eq!(lower.len(), 6, "{found:?}");
        assert!(found[0].starts_with("p=a-b-") && found[5] == "p=", "{found:?}");
    }
}
