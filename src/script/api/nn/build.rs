//! Models that a script builds, and builds again from their folder.

use crate::bail_hint;
use crate::checkpoint::{ConfigFile, Own};
use crate::error::{Context as _, Result, bail, did_you_mean};
use crate::nn::{self, Definition, VitNepaConfig};
use crate::options::Options as _;
use crate::run::progress::note_line;
use crate::script::confined;
use crate::script::error::from_rhai;
use crate::script::session;
use crate::script::types::{Argument, handles};
use crate::script::values::{Module, found, from_json, plain_map, read_options, to_json};
use crate::script::{sources, with_engine};
use crate::types::{Type, Typed};
use rhai::{Dynamic, Engine, EvalAltResult, Map, Position, Scope};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The function that a script of a model defines.
const BUILD: &str = "build";

/// The script that builds a model, as a value of scripts.
#[derive(Clone)]
pub struct ModelScript(pub Arc<Definition>);

handles! { "ModelScript": ModelScript; }

/// What builds a model: a script by its path, the script of another model, or () or "" for the built-in ViT-NEPA.
pub enum Builder {
    Plain,
    Path(PathBuf),
    Script(Arc<Definition>),
}

impl Typed for Builder {
    fn script_type() -> Type {
        Type::Either(vec![Type::named("string"), ModelScript::script_type(), Type::named("()")])
    }
}

impl Argument for Builder {
    type Raw = Dynamic;
    fn read(raw: Dynamic, of: &str) -> Result<Self> {
        if let Some(script) = raw.read_lock::<ModelScript>() {
            return Ok(Self::Script(script.0.clone()));
        }
        if raw.is_unit() {
            return Ok(Self::Plain);
        }
        match raw.read_lock::<rhai::ImmutableString>() {
            Some(path) if path.is_empty() => Ok(Self::Plain),
            Some(path) => Ok(Self::Path(PathBuf::from(path.as_str()))),
            None => bail!(
                "{of}: expected the path of a script, a model's script, or () for a ViT-NEPA, found {}",
                found(&raw)
            ),
        }
    }
}

/// The model that a script builds of a configuration, or a plain ViT-NEPA.
pub fn build(builder: Builder, config: Map) -> Result<Module> {
    match builder {
        Builder::Plain => super::plain(config),
        Builder::Script(definition) => built(&definition, config),
        Builder::Path(path) => built(&read(&path)?, config),
    }
}

/// The script at a path, with those that it imports.
fn read(path: &Path) -> Result<Definition> {
    if !path.is_file() && !path.with_extension("rhai").is_file() {
        // Its error names the scripts that are there.
        sources().read_recipe(path).map_err(|e| anyhow::anyhow!("{}", e.to_string().replace("the recipe ", "")))?;
    }
    let found = with_engine(|engine| sources().with_imports(engine, &path.display().to_string()))?;
    for (file, _) in &found {
        session::note_import(|recipe| sources().script(recipe, file))?;
    }
    let place = |file: &str| std::fs::canonicalize(file).with_context(|| format!("cannot read {file}"));
    let places = found.iter().map(|(file, _)| place(file)).collect::<Result<Vec<PathBuf>>>()?;
    let mut folder = places[0].parent().unwrap_or(Path::new("/")).to_path_buf();
    while !places.iter().all(|place| place.starts_with(&folder)) {
        folder.pop();
    }
    let name = |place: &PathBuf| place.strip_prefix(&folder).map(|name| name.display().to_string()).unwrap_or_default();
    let texts = found.iter().map(|(_, text)| text.clone());
    let scripts: BTreeMap<String, String> = places.iter().map(name).zip(texts).collect();
    Ok(Definition { script: name(&places[0]), scripts, config: Default::default(), folder })
}

/// The configuration that a script gets: with the defaults of the keys of nn::vit_nepa that were not given.
fn complete(given: &Map) -> Result<Map> {
    let (known, own): (Map, Map) =
        given.clone().into_iter().partition(|(name, _)| VitNepaConfig::NAMES.contains(&name.as_str()));
    let mut config = plain_map(&read_options::<VitNepaConfig>("nn::build", &known)?)?;
    config.extend(own);
    Ok(config)
}

/// The model of a configuration.
pub fn built(definition: &Definition, given: Map) -> Result<Module> {
    let config = complete(&given)?;
    let Definition { folder, script, scripts, .. } = definition;
    let sources = sources();
    for (name, text) in scripts {
        sources.put(&folder.join(name), text);
    }
    let main = folder.join(script).display().to_string();
    let (file, ast) = with_engine(|engine| {
        let real = std::fs::canonicalize(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let is_kept = |file: &str| {
            let place = std::fs::canonicalize(file).ok();
            let name = place.as_ref().and_then(|place| place.strip_prefix(&real).ok());
            name.is_some_and(|name| scripts.contains_key(&name.display().to_string()))
        };
        for (file, _) in sources.with_imports(engine, &main)? {
            if !is_kept(&file) {
                bail!("the script {main} imports {file}, which is not kept with the model");
            }
        }
        sources.compile_module(engine, "", &main, Position::NONE).map_err(from_rhai)
    })?;
    let has = |f: rhai::ScriptFnMetadata<'_>| f.name == BUILD && f.params.len() == 1;
    if !ast.iter_functions().any(has) {
        let names: Vec<&str> = ast.iter_functions().map(|f| f.name).filter(|name| !name.starts_with("anon$")).collect();
        bail_hint!(
            "{main} has no function build(config){}", did_you_mean(BUILD, names.iter().copied());
            "a script that builds a model defines `fn build(config)`, which returns what nn::vit_nepa gives"
        );
    }
    let value = confined::enter(|| with_engine(|engine| call(engine, &file, config))).map_err(from_rhai)?;
    let module = match value.read_lock::<Module>() {
        Some(module) if module.0.vit_nepa().is_some() => module.clone(),
        _ => bail_hint!(
            "{main}: build(config) must return a model, found {}", found(&value);
            "the last expression is nn::vit_nepa(config, #{{ …parts of your own }})"
        ),
    };
    let model = module.0.vit_nepa().expect("checked");
    let keys = kept(&main, model, &given)?;
    model.set_definition(Definition { config: keys, ..definition.clone() });
    Ok(module)
}

/// The model of a configuration file, with fresh weights.
pub fn model_of(file: &ConfigFile) -> Result<nn::ModuleRef> {
    let module = match &file.own {
        Some(Own::Script(definition)) => built(definition, config_of(file))?,
        _ => super::plain(config_of(file))?,
    };
    Ok(module.0)
}

/// What the script's function returns: called as a script that imports it would.
fn call(engine: &Engine, file: &str, config: Map) -> std::result::Result<Dynamic, Box<EvalAltResult>> {
    let mut scope = Scope::new();
    scope.push("file", file.to_string()).push("config", config);
    let ast = engine.compile_with_scope(&scope, "import file as script; script::build(config)")?;
    engine.eval_ast_with_scope(&mut scope, &ast).map_err(|mut error| {
        // A place in this text is nobody's: that of the call of nn::build takes it.
        error.set_position(Position::NONE);
        error
    })
}

/// The keys of a configuration that the model's script alone knows. A key that the script has not used as it was given is
/// told.
fn kept(main: &str, model: &nn::VitNepa, given: &Map) -> Result<serde_json::Map<String, Value>> {
    let actual = serde_json::to_value::<&VitNepaConfig>(model.architecture())?;
    let mut own = serde_json::Map::new();
    for (name, value) in given {
        let value = to_json(value).with_context(|| format!("the key `{name}` of the configuration for {main}"))?;
        let there = &actual[name.as_str()];
        if !VitNepaConfig::NAMES.contains(&name.as_str()) {
            own.insert(name.to_string(), value);
        } else if !same(there, &value) {
            if name == "num_labels" {
                bail_hint!(
                    "{main}: build(config) was given num_labels {value}, and built a model with {there}";
                    "hand the configuration on: nn::vit_nepa(config, …)"
                );
            }
            note_line(&format!("note: {main} was given {name} {value}, and builds with {there}"));
        }
    }
    Ok(own)
}

/// Whether two values are the same, as numbers if they are.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// The script of a model; () of a plain ViT-NEPA.
pub fn script_of(m: &Module) -> Result<Dynamic> {
    let Some(model) = m.0.vit_nepa() else { return Ok(Dynamic::UNIT) };
    match (model.definition(), model.own_parts()) {
        (Some(definition), _) => Ok(Dynamic::from(ModelScript(definition))),
        (None, []) => Ok(Dynamic::UNIT),
        (None, parts) => bail_hint!(
            "another model like this one cannot be built: it has parts of its own ({})", parts.join(", ");
            "move what makes them into a script with `fn build(config)`, and use nn::build(SCRIPT, config)"
        ),
    }
}

/// The configuration of a model, with the keys that its script alone knows.
pub fn config_of(file: &ConfigFile) -> Map {
    let keys = file.all_keys();
    keys.into_iter().map(|(name, value)| (name.as_str().into(), from_json(&value))).collect()
}
