//! The texts of all scripts of a run, and where imports lead: `std/…` to the standard library,
//! embedded in the binary or in the folder that overrides it; anything else to a file beside the
//! importing one.

use super::functions::{self, Function};
use super::{limits, session};
use crate::bail_hint;
use crate::error::{Context as _, Result, did_you_mean, nearest};
use crate::files::{folder_of, names_in};
use crate::run::Script;
use crate::untrusted::read_text;
use rhai::{AST, Engine, EvalAltResult, FnPtr, Module, ModuleResolver, Position, Scope, Shared};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Scripts of a folder of the project, embedded in the program: each one's file name and text.
macro_rules! embedded {
    ($folder:literal: $($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $folder, "/", $file)))),+]
    };
}
pub(crate) use embedded;

const STDLIB: &[(&str, &str)] = embedded!["stdlib":
    "embed.rhai",
    "evaluate.rhai",
    "features.rhai",
    "finetune.rhai",
    "imagenet.rhai",
    "imagenet_training.rhai",
    "pretrain.rhai",
    "probe.rhai",
    "retrieval.rhai",
    "splits.rhai",
    "start.rhai",
    "train.rhai",
    "visualize.rhai",
];

#[derive(Default)]
struct Store {
    texts: HashMap<String, String>,
    /// Names of the files that were loaded, by folder and file name as the system knows them: a file has one name.
    names: HashMap<PathBuf, String>,
    /// Recipes that are in the program, by the path that stands for a file.
    built_in: HashMap<PathBuf, &'static str>,
    modules: HashMap<String, Shared<Module>>,
    loading: Vec<String>,
}

/// Shared between the engine's resolver and the error reports.
#[derive(Clone, Default)]
pub struct Sources {
    store: Rc<RefCell<Store>>,
    /// A folder that replaces the embedded standard library, file by file.
    stdlib: Option<PathBuf>,
}

impl Sources {
    /// No texts yet; `stdlib` is a folder that overrides the embedded library.
    pub fn new(stdlib: Option<PathBuf>) -> Self {
        Self { store: Rc::default(), stdlib }
    }

    /// The folder that overrides the embedded library.
    pub fn stdlib(&self) -> Option<&Path> {
        self.stdlib.as_deref()
    }

    /// The text of a script that was loaded.
    pub fn text(&self, file: &str) -> Option<String> {
        self.store.borrow().texts.get(file).cloned()
    }

    /// A checksum of each text, by file.
    pub fn checksums(&self) -> std::collections::BTreeMap<String, u32> {
        let texts = &self.store.borrow().texts;
        texts.iter().map(|(file, text)| (file.clone(), crc32fast::hash(text.as_bytes()))).collect()
    }

    /// A script that was loaded, as the run of the recipe knows it.
    pub fn script(&self, recipe: &Path, file: &str) -> Script {
        let text = self.text(file).unwrap_or_default();
        let is_embedded = STDLIB.iter().any(|(name, embedded)| file == format!("std/{name}") && text == *embedded);
        let name = match (is_embedded, self.overriding(file)) {
            (true, _) => file.to_string(),
            (false, Some(name)) => name,
            (false, None) => {
                let path = Path::new(file);
                path.strip_prefix(recipe.parent().unwrap_or(Path::new(""))).unwrap_or(path).display().to_string()
            }
        };
        Script { name, code: functions::code_of(&text), text, is_embedded }
    }

    /// The name in the standard library, "std/finetune.rhai", of a file in the folder that overrides it.
    fn overriding(&self, file: &str) -> Option<String> {
        let folder = std::fs::canonicalize(self.stdlib.as_ref()?).ok()?;
        let file = std::fs::canonicalize(file).ok()?;
        Some(format!("std/{}", file.strip_prefix(folder).ok()?.display()))
    }

    /// The name that a script has for others: of one that overrides a file of the standard library, that file's.
    pub fn library_name(&self, file: &str) -> String {
        self.overriding(file).unwrap_or_else(|| file.to_string())
    }

    /// The function that a pointer calls, if one of the loaded scripts defines it; scripts of the user's own come
    /// first.
    pub fn function(&self, function: &FnPtr) -> Option<Function> {
        let mut texts: Vec<(String, String)> = self.store.borrow().texts.clone().into_iter().collect();
        texts.sort_by_key(|(file, _)| (file.starts_with("std/"), file.clone()));
        let find = |text: &String| {
            let ast = super::with_engine(|engine| engine.compile(text)).ok()?;
            functions::find(function, &ast, text)
        };
        texts.iter().find_map(|(_, text)| find(text))
    }

    /// Makes a recipe that is in the program known as `path`, for commands that run one.
    pub fn build_in(&self, path: &Path, text: &'static str) {
        self.store.borrow_mut().built_in.insert(path.to_path_buf(), text);
    }

    /// Reads a recipe and remembers its text.
    pub fn read_recipe(&self, path: &Path) -> Result<String> {
        let built_in = self.store.borrow().built_in.get(path).copied();
        if let Some(text) = built_in {
            self.remember(&path.display().to_string(), text);
            return Ok(text.to_string());
        }
        if !path.is_file() {
            let parent = if path.is_dir() { path } else { crate::files::folder_of(path) };
            let mut names: Vec<String> = std::fs::read_dir(parent)
                .map(|entries| entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
                .unwrap_or_default();
            names.retain(|n| n.ends_with(".rhai"));
            names.sort();
            let wanted = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let with_ending = format!("{wanted}.rhai");
            let near = names.iter().map(String::as_str).find(|name| *name == with_ending);
            let near = near
                .or_else(|| nearest(&wanted, names.iter().map(String::as_str)))
                .map(|n| format!("; did you mean {}?", parent.join(n).display()))
                .unwrap_or_default();
            let kind = match (path.is_dir(), path.exists()) {
                (true, _) => "is a folder, not a recipe",
                (false, true) => "is a pipe or a device: a recipe is read from a file",
                (false, false) => "does not exist",
            };
            let hint = match names.is_empty() {
                true => format!("{} holds no .rhai files", parent.display()),
                false => format!("{} holds: {}", parent.display(), names.join(", ")),
            };
            return Err(crate::error::Diagnostic::new(format!("the recipe {} {kind}{near}", path.display()))
                .hint(hint)
                .into());
        }
        let text = read_text(path)?;
        self.remember(&path.display().to_string(), &text);
        Ok(text)
    }

    /// Keeps a script's text, for error messages.
    pub fn remember(&self, file: &str, text: &str) {
        self.store.borrow_mut().texts.insert(file.to_string(), text.to_string());
    }

    /// The file that `import path` in `importer` means, if there is one.
    pub fn module_file(&self, importer: &str, path: &str) -> Option<String> {
        self.locate(importer, path).ok()?.map(|(file, _)| file)
    }

    /// File name and text of an imported module, if there is one.
    fn locate(&self, importer: &str, path: &str) -> Result<Option<(String, String)>> {
        let with_extension = if path.ends_with(".rhai") { path.to_string() } else { format!("{path}.rhai") };
        if let Some(name) = with_extension.strip_prefix("std/") {
            if let Some(folder) = &self.stdlib
                && let Some(found) = self.read_once(&folder.join(name))?
            {
                return Ok(Some(found));
            }
            let embedded = STDLIB.iter().find(|(file, _)| *file == name);
            return Ok(embedded.map(|(_, text)| (with_extension, text.to_string())));
        }
        let folder = Path::new(importer).parent().unwrap_or(Path::new(""));
        self.read_once(&folder.join(&with_extension))
    }

    /// File name and text of a script, if there is one. It is read once: a file that is edited during a run does not
    /// change the run. However a path to it is written, it is the same script.
    fn read_once(&self, path: &Path) -> Result<Option<(String, String)>> {
        let (Ok(folder), Some(name)) = (std::fs::canonicalize(folder_of(path)), path.file_name()) else {
            return Ok(None);
        };
        let place = folder.join(name);
        let known = self.store.borrow().names.get(&place).cloned();
        let file = known.unwrap_or_else(|| path.display().to_string());
        if let Some(text) = self.text(&file) {
            return Ok(Some((file, text)));
        }
        if !path.exists() {
            return Ok(None);
        }
        let text = read_script(path)?;
        self.store.borrow_mut().names.insert(place, file.clone());
        Ok(Some((file, text)))
    }

    /// The file and AST of an imported module.
    pub fn compile_module(
        &self,
        engine: &Engine,
        importer: &str,
        path: &str,
        position: Position,
    ) -> Result<(String, AST), Box<EvalAltResult>> {
        let located = self.locate(importer, path).map_err(|e| super::error::to_rhai(e, position))?;
        let Some((file, text)) = located else {
            return Err(Box::new(EvalAltResult::ErrorModuleNotFound(path.to_string(), position)));
        };
        self.remember(&file, &text);
        let mut ast = limits::with_stack_to_compile(|| engine.compile(&text)).map_err(|e| {
            let inner = Box::new(EvalAltResult::ErrorParsing(*e.0, e.1));
            Box::new(EvalAltResult::ErrorInModule(path.to_string(), inner, position))
        })?;
        ast.set_source(file.as_str());
        Ok((file, ast))
    }

    /// Takes the text of a script as given, though another one may have been read at its place before.
    pub fn put(&self, path: &Path, text: &str) {
        let (Ok(folder), Some(name)) = (std::fs::canonicalize(folder_of(path)), path.file_name()) else { return };
        let mut store = self.store.borrow_mut();
        let file = store.names.entry(folder.join(name)).or_insert_with(|| path.display().to_string()).clone();
        if store.texts.insert(file.clone(), text.to_string()).is_some_and(|before| before != text) {
            // Those that import it are made anew as well.
            store.modules.clear();
        }
    }

    /// The scripts that a script imports, other than those of the standard library, and theirs, with itself: each one's
    /// file and text.
    pub fn with_imports(&self, engine: &Engine, path: &str) -> Result<Vec<(String, String)>> {
        let mut all: Vec<(String, String)> = Vec::new();
        let mut open = vec![(String::new(), path.to_string())];
        while let Some((importer, path)) = open.pop() {
            let (file, ast) =
                self.compile_module(engine, &importer, &path, Position::NONE).map_err(super::error::from_rhai)?;
            if file.starts_with("std/") || all.iter().any(|(known, _)| *known == file) {
                continue;
            }
            for import in super::ast::imports(&ast) {
                match import {
                    Ok(path) => open.push((file.clone(), path)),
                    Err(line) => bail_hint!(
                        "{file}, line {line}: the path of this import is computed";
                        "a script that builds a model is kept with what it imports: write the path out"
                    ),
                }
            }
            let text = self.text(&file).unwrap_or_default();
            all.push((file, text));
        }
        Ok(all)
    }

    /// What could have been meant by an import that leads nowhere, in the script `importer`.
    pub fn import_hint(&self, importer: &str, path: &str) -> Option<String> {
        let names = self.stdlib_names();
        match path.strip_prefix("std/") {
            Some(name) => Some(format!(
                "the standard library has {}{}",
                names.iter().map(|n| format!("std/{n}")).collect::<Vec<_>>().join(", "),
                did_you_mean(name, names.iter().map(String::as_str))
            )),
            None => {
                let beside = scripts_beside(importer, path);
                let close = nearest(path, beside.iter().map(String::as_str)).map(|n| format!("; did you mean `{n}`?"));
                let close = close.or_else(|| {
                    nearest(path, names.iter().map(String::as_str)).map(|n| format!("; did you mean `std/{n}`?"))
                });
                Some(format!(
                    "an import is a path relative to the importing file, without .rhai, or std/NAME{}",
                    close.unwrap_or_default()
                ))
            }
        }
    }

    /// Names of the standard library's scripts.
    pub fn stdlib_names(&self) -> Vec<String> {
        STDLIB.iter().map(|(file, _)| file.trim_end_matches(".rhai").to_string()).collect()
    }
}

/// The scripts in the folder that an import leads to, as an import names them.
fn scripts_beside(importer: &str, path: &str) -> Vec<String> {
    let within = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let folder = folder_of(Path::new(importer)).join(&within);
    let names = names_in(&folder).unwrap_or_default();
    names.iter().filter_map(|name| Some(format!("{within}{}", name.strip_suffix(".rhai")?))).collect()
}

/// The text of an imported script. An import must not show other files, so a link has to lead to a script too.
fn read_script(path: &Path) -> Result<String> {
    let real = std::fs::canonicalize(path).with_context(|| format!("cannot read {}", path.display()))?;
    if real.extension().is_none_or(|ending| ending != "rhai") {
        bail_hint!(
            "{} is a link to {}, which is no script", path.display(), real.display();
            "the name of a script ends in .rhai"
        );
    }
    read_text(path)
}

impl ModuleResolver for Sources {
    fn resolve(
        &self,
        engine: &Engine,
        source: Option<&str>,
        path: &str,
        position: Position,
    ) -> Result<Shared<Module>, Box<EvalAltResult>> {
        let (file, ast) = self.compile_module(engine, source.unwrap_or(""), path, position)?;
        if let Some(module) = self.store.borrow().modules.get(&file) {
            return Ok(module.clone());
        }
        session::note_import(|recipe| self.script(recipe, &file)).map_err(|e| super::error::to_rhai(e, position))?;
        if self.store.borrow().loading.contains(&file) {
            let chain = self.store.borrow().loading.join(" -> ");
            let inner = EvalAltResult::ErrorRuntime(format!("circular import: {chain} -> {file}").into(), position);
            return Err(Box::new(inner));
        }
        self.store.borrow_mut().loading.push(file.clone());
        let result = Module::eval_ast_as_new(Scope::new(), &ast, engine);
        self.store.borrow_mut().loading.pop();
        let module: Shared<Module> =
            result.map_err(|e| Box::new(EvalAltResult::ErrorInModule(path.to_string(), e, position)))?.into();
        self.store.borrow_mut().modules.insert(file, module.clone());
        Ok(module)
    }
}
