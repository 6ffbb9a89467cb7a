//! What a run directory holds beside its lines: pictures, tables, results, and models.

use crate::bail_hint;
use crate::checkpoint::model_file;
use crate::cli::inspect;
use crate::cli::plot::CURVES_FILE;
use crate::error::{Result, one_line};
use crate::files::{checksum_of, folders_in, names_in, read_json};
use crate::output::err;
use crate::run::directory::CHECKPOINTS_DIR;
use crate::run::schema::EVALUATION_FILE;
use crate::run::scripts::SCRIPTS_DIR;
use crate::run::{RunFile, inside};
use crate::table_file;
use crate::untrusted::{self, MOST_TEXT};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The most files of a run that are sent.
const MOST_FILES: usize = 1000;
/// The most rows of a table that are sent.
const MOST_ROWS: usize = 10_000;
/// The folder that the standard library saves a model to.
const MODEL_DIR: &str = "model";

/// Something to be sent as a whole.
pub struct Item {
    /// Its name in the state.
    pub name: String,
    /// Its content, in a few letters.
    pub checksum: String,
    /// The kind of its messages.
    pub what: &'static str,
    /// What they say.
    pub messages: Vec<Value>,
}

/// Looks for files that have come or changed.
#[derive(Default)]
pub struct Files {
    /// Size, time and inode of those that were looked at, by name.
    seen: BTreeMap<String, (u64, i64, i64, u64)>,
    /// What the user has been told.
    told: HashSet<String>,
}

impl Files {
    /// The pictures and tables of a run that are not what `sent` says was sent last.
    pub fn changed(&mut self, dir: &Path, sent: &BTreeMap<String, String>) -> Result<Vec<Item>> {
        let mut names = names(dir)?;
        if names.len() > MOST_FILES {
            self.tell(&format!("{}: only the first {MOST_FILES} of its {} files are sent", dir.display(), names.len()));
            names.truncate(MOST_FILES);
        }
        let mut items = Vec::new();
        for name in names {
            match self.changed_file(dir, &name, sent) {
                Ok(found) => items.extend(found),
                Err(e) => self.tell(&format!("{}: {name} is not sent: {}", dir.display(), one_line(&e))),
            }
        }
        Ok(items)
    }

    /// Tells the user something once.
    pub fn tell(&mut self, text: &str) {
        if self.told.insert(text.to_string()) {
            err!("{text}");
        }
    }

    fn changed_file(&mut self, dir: &Path, name: &str, sent: &BTreeMap<String, String>) -> Result<Option<Item>> {
        inside::check(dir, name, MOST_TEXT)?;
        let path = dir.join(name);
        let about = std::fs::metadata(&path)?;
        let now = (about.len(), about.mtime(), about.mtime_nsec(), about.ino());
        if self.seen.insert(name.to_string(), now) == Some(now) {
            return Ok(None);
        }
        let bytes = untrusted::read(&path, MOST_TEXT)?;
        let checksum = checksum(&bytes);
        if sent.get(name) == Some(&checksum) {
            return Ok(None);
        }
        let item = |what, messages| Ok(Some(Item { name: name.to_string(), checksum, what, messages }));
        if is_picture(name) {
            let path = std::path::absolute(&path)?.display().to_string();
            return item("picture", vec![json!({ "name": name, "path": path })]);
        }
        if name == EVALUATION_FILE {
            return item("table", evaluation_tables(&read_json(&path)?));
        }
        let table = table_file::decode(Path::new(name), bytes, MOST_ROWS)?;
        if table.left_out > 0 {
            self.tell(&format!(
                "{}: of {name} the first {MOST_ROWS} rows are sent, {} are left out",
                dir.display(),
                table.left_out
            ));
        }
        let short = Path::new(name).with_extension("").display().to_string();
        item("table", vec![json!({ "name": short, "columns": table.columns, "rows": table.rows })])
    }
}

/// A checksum of bytes, with their number.
pub fn checksum(bytes: &[u8]) -> String {
    format!("{}-{:08x}", bytes.len(), crc32fast::hash(bytes))
}

fn is_picture(name: &str) -> bool {
    name.ends_with(".png") || name.ends_with(".svg")
}

/// The pictures, the tables and the evaluation of a run.
fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = names_of(dir, |name| is_picture(name) || name.ends_with(".parquet") || name.ends_with(".csv"))?;
    if dir.join(EVALUATION_FILE).exists() {
        names.push(EVALUATION_FILE.into());
    }
    Ok(names)
}

/// The files of a run whose names are `wanted`, but for its curves and hidden ones: in its directory, and in the folders
/// in it that it did not make for itself.
pub fn names_of(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let is_wanted = |name: &String| !name.starts_with('.') && wanted(name);
    let mut names: Vec<String> = names_in(dir)?.into_iter().filter(|n| is_wanted(n) && n != CURVES_FILE).collect();
    for folder in folders_in(dir)? {
        let Some(name) = folder.file_name().and_then(|n| n.to_str()) else { continue };
        let is_own = [CHECKPOINTS_DIR, SCRIPTS_DIR].contains(&name) || name.starts_with('.');
        if !is_own && inside::is_in(dir, &folder) && model_file(&folder).is_none() {
            names.extend(names_in(&folder)?.into_iter().filter(is_wanted).map(|file| format!("{name}/{file}")));
        }
    }
    Ok(names)
}

/// The lists of maps of an evaluation, such as `per_class` of each model, as tables.
fn evaluation_tables(found: &Map<String, Value>) -> Vec<Value> {
    let mut tables = Vec::new();
    for (name, value) in found {
        match value {
            Value::Object(inner) => {
                let lists = inner.iter().map(|(key, list)| (format!("{name}/{key}"), list));
                tables.extend(lists.filter_map(|(name, list)| table_of(&name, list)));
            }
            list => tables.extend(table_of(name, list)),
        }
    }
    tables
}

fn table_of(name: &str, list: &Value) -> Option<Value> {
    let rows: Vec<&Map<String, Value>> = list.as_array()?.iter().map(Value::as_object).collect::<Option<_>>()?;
    let mut columns: Vec<&String> = Vec::new();
    for key in rows.iter().flat_map(|row| row.keys()) {
        if !columns.contains(&key) {
            columns.push(key);
        }
    }
    let row = |row: &&Map<String, Value>| columns.iter().map(|c| row.get(*c).cloned().unwrap_or_default()).collect();
    let rows: Vec<Vec<Value>> = rows.iter().take(MOST_ROWS).map(row).collect();
    (!rows.is_empty()).then(|| json!({ "name": format!("evaluation/{name}"), "columns": columns, "rows": rows }))
}

/// What a run depends on.
pub fn config(run: &RunFile) -> Value {
    let mut config = run.params.clone();
    config.entry("seed").or_insert(run.seed.into());
    let about = [
        ("recipe", json!(run.recipe)),
        ("device", json!(run.device)),
        ("threads", json!(run.threads)),
        ("versions", json!(run.versions)),
        ("models", json!(run.models)),
        ("settings", json!(run.settings)),
    ];
    for (name, value) in about {
        config.entry(name).or_insert(value);
    }
    config.into()
}

/// What a run came to: what the recipe returned, and the numbers of its evaluation, by name.
pub fn summary(dir: &Path, run: &RunFile) -> Result<Map<String, Value>> {
    let mut summary = Map::new();
    flatten("result", &Value::Object(run.result.clone()), &mut summary);
    inside::check(dir, EVALUATION_FILE, MOST_TEXT)?;
    let path = dir.join(EVALUATION_FILE);
    if path.exists() {
        let mut numbers = Map::new();
        flatten("evaluation", &Value::Object(read_json(&path)?), &mut numbers);
        summary.extend(numbers.into_iter().filter(|(_, value)| value.is_number()));
    }
    Ok(summary)
}

fn flatten(name: &str, value: &Value, all: &mut Map<String, Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| flatten(&format!("{name}/{key}"), value, all)),
        Value::Array(_) | Value::Null => {}
        other => drop(all.insert(name.to_string(), other.clone())),
    }
}

/// The model of a run that is sent: the folder `name`, else `model`, else the only one. `None`: it has none.
pub fn model(dir: &Path, name: Option<&str>) -> Result<Option<Item>> {
    let short = |path: &PathBuf| path.strip_prefix(dir).unwrap_or(path).display().to_string();
    let found: Vec<String> = inspect::models(dir)?.iter().map(short).collect();
    let chosen = match name {
        Some(name) => found.iter().find(|known| *known == name.trim_end_matches('/')),
        None => found.iter().find(|name| *name == MODEL_DIR).or(found.first().filter(|_| found.len() == 1)),
    };
    let folder = match (chosen, found.is_empty()) {
        (Some(folder), _) => folder,
        (None, true) => return Ok(None),
        (None, false) => bail_hint!(
            "{} holds no model {}, but others", dir.display(), name.unwrap_or(MODEL_DIR);
            "say which: --model={}", found.join(" or --model=")
        ),
    };
    let mut files = Vec::new();
    collect(dir, Path::new(folder), &mut files)?;
    let (mut sums, mut message) = (String::new(), Vec::new());
    for file in files {
        let path = inside::path_in(dir, &file)?;
        let sum = checksum_of(&path)?;
        let name = file.strip_prefix(folder).unwrap_or(&file).display().to_string();
        sums += &format!("{name} {} {:08x}\n", sum.bytes, sum.crc32);
        message.push(json!([name, std::path::absolute(&path)?.display().to_string()]));
    }
    let checksum = checksum(sums.as_bytes());
    let messages = vec![json!({ "name": folder, "files": message })];
    Ok(Some(Item { name: folder.clone(), checksum, what: "model", messages }))
}

/// The files below a folder of a run; one that does not lie in the run is an error.
fn collect(dir: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for name in names_in(&dir.join(folder))? {
        let below = folder.join(name);
        let path = inside::path_in(dir, &below)?;
        if path.is_dir() {
            collect(dir, &below, files)?;
        } else {
            inside::check(dir, &below.display().to_string(), u64::MAX)?;
            files.push(below);
        }
    }
    Ok(())
}
