//! The script host: the one place that knows Rhai.

mod api;
mod ast;
mod builtin;
mod check;
mod confined;
mod defaults;
mod definitions;
pub mod docs;
pub mod error;
mod functions;
mod habits;
mod limits;
mod params;
mod registry;
pub mod search;
mod session;
mod sources;
mod types;
mod values;

pub use api::transform::pipeline;
pub use check::{Checked, Problem};
pub use params::{Declared, Params, type_of};
pub use session::{finish_run, start_run};
pub use sources::Sources;
pub(crate) use sources::embedded;

use crate::checkpoint::ConfigFile;
use crate::error::{Diagnostic, hint_of, one_line};
use crate::nn::ModuleRef;
use crate::options::OptionDoc;
use crate::run::signals::Interrupt;
use builtin::Builtin;
use docs::{Reference, ScriptFnDoc, ScriptModuleDoc};
pub use error::ScriptError;
use registry::Api;
use rhai::{AST, Dynamic, Engine, EvalAltResult, OptimizationLevel, Position, Scope};
use std::cell::{Cell, OnceCell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

thread_local! {
    /// The engine of this thread's host, for Rust code that calls back into a script.
    static ENGINE: Cell<Option<&'static Engine>> = const { Cell::new(None) };
    /// The texts of its scripts.
    static SOURCES: RefCell<Option<Sources>> = const { RefCell::new(None) };
}

/// Runs `f` with this thread's engine.
fn with_engine<R>(f: impl FnOnce(&Engine) -> R) -> R {
    f(ENGINE.get().expect("script functions are called while a host runs"))
}

/// The texts of the scripts of this thread's host.
fn sources() -> Sources {
    SOURCES.with_borrow(|sources| sources.clone()).expect("script functions are called while a host runs")
}

/// An engine with everything registered, and the reference of it.
pub struct Host {
    engine: &'static Engine,
    reference: Rc<OnceCell<Reference>>,
    /// The texts of the scripts.
    pub sources: Sources,
}

/// How a script ended early.
pub enum Failure {
    /// An error, ready to be shown.
    Error(ScriptError),
    /// Stopped by a signal, with the exit code.
    Interrupted(i32),
}

impl Host {
    /// The host of this thread. `stdlib` is a folder that overrides the embedded library.
    pub fn new(stdlib: Option<PathBuf>, interrupt: Interrupt) -> Self {
        let mut engine = Engine::new();
        engine.set_strict_variables(true);
        engine.set_optimization_level(OptimizationLevel::None);
        // The fast path of `1 / 0` forgets where it stands.
        engine.set_fast_operators(false);
        // It would run what no check has seen.
        engine.disable_symbol("eval");
        limits::set(&mut engine);
        engine.set_fail_on_invalid_map_property(true);
        error::name_missing_keys(&mut engine);
        engine.on_progress(move |_| {
            let interrupted = interrupt.ends_script().map(|code| Dynamic::from_int(code as i64));
            interrupted.or_else(|| limits::stack_overflow().map(Dynamic::from))
        });
        engine.on_print(crate::run::progress::print_line);
        engine.on_debug(|text, source, position| {
            let line = format!("{}:{position:?}: {text}", source.unwrap_or("script"));
            match crate::dist::is_rank0() {
                true => crate::run::progress::print_line(&line),
                false => crate::run::progress::note_line_of_any(&line),
            }
        });
        let sources = Sources::new(stdlib);
        engine.set_module_resolver(sources.clone());

        let filled = Rc::new(OnceCell::new());
        error::catch_all(&mut engine, sources.clone(), filled.clone());
        let mut reference = Reference::default();
        let standard = |info: rhai::FuncInfo| info.namespace.is_empty().then(|| Builtin::of(&info));
        reference.builtin = engine.collect_fn_metadata(None, standard, true);
        // No script has such numbers.
        reference.builtin.retain(|f| f.params.iter().all(|(_, of)| of != "f32"));
        api::register(&mut Api { engine: &mut engine, reference: &mut reference });
        // One engine a process (or a test's thread): it lives as long as anything that calls it.
        let engine: &'static Engine = Box::leak(Box::new(engine));
        ENGINE.set(Some(engine));
        SOURCES.set(Some(sources.clone()));
        let host = Self { engine, reference: filled, sources };
        reference.stdlib = host.read_stdlib();
        host.reference.set(reference).unwrap_or_else(|_| unreachable!("filled here only"));
        host
    }

    /// What a script can call.
    pub fn reference(&self) -> &Reference {
        self.reference.get().expect("filled by `new`")
    }

    /// The documentation of the standard library, from its own comments.
    fn read_stdlib(&self) -> Vec<ScriptModuleDoc> {
        let strip = |comment: &str, mark: &str| -> String {
            let line = |l: &str| {
                l.trim_start()
                    .trim_start_matches(mark)
                    .strip_prefix(' ')
                    .map(String::from)
                    .unwrap_or_else(|| l.trim_start().trim_start_matches(mark).to_string())
            };
            comment.lines().map(line).collect::<Vec<_>>().join("\n")
        };
        let mut modules = Vec::new();
        for name in self.sources.stdlib_names() {
            let path = format!("std/{name}");
            let Ok((_, ast)) = self.sources.compile_module(self.engine, "", &path, rhai::Position::NONE) else {
                continue;
            };
            let mut functions: Vec<ScriptFnDoc> = ast
                .iter_functions()
                .filter(|f| f.access.is_public() && !f.name.starts_with("anon$"))
                .map(|f| ScriptFnDoc {
                    name: f.name.to_string(),
                    params: f.params.iter().map(|p| p.to_string()).collect(),
                    doc: strip(&f.comments.join("\n"), "///"),
                    options: self.declared_options(&ast, f.name),
                })
                .collect();
            functions.sort_by(|a, b| a.name.cmp(&b.name));
            modules.push(ScriptModuleDoc { path, about: strip(ast.doc(), "//!"), functions });
        }
        modules
    }

    /// The options that the function called `name` and `_options` declares; none if there is no such function.
    fn declared_options(&self, ast: &AST, name: &str) -> Vec<OptionDoc> {
        let declared = self.engine.call_fn::<rhai::Array>(&mut Scope::new(), ast, format!("{name}_options"), ());
        let declarations = declared.ok().and_then(|list| api::declarations(&list).ok()).unwrap_or_default();
        declarations.iter().map(|declaration| declaration.doc()).collect()
    }

    /// Reads and compiles a recipe.
    pub fn compile(&self, path: &Path) -> Result<AST, ScriptError> {
        let file = path.display().to_string();
        let text = self.sources.read_recipe(path).map_err(|e| ScriptError::of_rust(&e))?;
        let mut ast = limits::with_stack_to_compile(|| self.engine.compile(&text))
            .map_err(|e| self.report(&EvalAltResult::ErrorParsing(*e.0, e.1), &file))?;
        ast.set_source(file.as_str());
        Ok(ast)
    }

    /// Resolves every import and function of a compiled recipe, without running it.
    pub fn check(&self, ast: &AST, path: &Path) -> Result<Checked, ScriptError> {
        let file = path.display().to_string();
        check::check(self, ast, &file).map_err(|e| self.report(&e, &file))
    }

    /// Runs a compiled recipe. A map that it returns is recorded as the result of the run.
    pub fn run(&self, ast: &AST, path: &Path) -> Result<(), Failure> {
        let result = self.engine.eval_ast_with_scope::<Dynamic>(&mut Scope::new(), ast);
        match result.map_err(|e| *e) {
            Ok(returned) => {
                session::record_result(&returned);
                Ok(())
            }
            Err(error) => match error::termination(&error) {
                Some(code) => Err(Failure::Interrupted(code)),
                None => Err(Failure::Error(self.report(&error, &path.display().to_string()))),
            },
        }
    }

    /// Evaluates a text that is not in a file, and converts its value. Errors show the text as a file called `name`.
    pub fn evaluate<T>(
        &self,
        name: &str,
        text: &str,
        make: impl FnOnce(&Dynamic) -> crate::error::Result<T>,
    ) -> Result<T, ScriptError> {
        self.sources.remember(name, text);
        let report = |e: &EvalAltResult| self.report(e, name);
        let mut ast = self.engine.compile(text).map_err(|e| report(&EvalAltResult::ErrorParsing(*e.0, e.1)))?;
        ast.set_source(name);
        let value: Dynamic = self.engine.eval_ast(&ast).map_err(|e| report(&e))?;
        make(&value).map_err(|e| {
            let diagnostic = Diagnostic { hint: hint_of(&e), ..Diagnostic::new(one_line(&e)) };
            ScriptError::at(diagnostic, name.to_string(), Position::new(1, 1))
        })
    }

    /// The model of a configuration, with fresh weights, built by its script if it has one.
    pub fn model(&self, config: &ConfigFile) -> crate::error::Result<ModuleRef> {
        api::model_of(config)
    }

    /// An error that came out of Rust code, perhaps from a function of the text called `name`.
    pub fn report_of(&self, error: anyhow::Error, name: &str) -> ScriptError {
        match error::is_scripts(&error) {
            true => self.report(&error::to_rhai(error, Position::NONE), name),
            false => ScriptError::of_rust(&error),
        }
    }

    fn report(&self, error: &EvalAltResult, main: &str) -> ScriptError {
        ScriptError::new(error, main, self.engine, &self.sources, self.reference())
    }

    /// A problem found by `check`, shown like an error.
    pub fn render_problem(&self, problem: &Problem) -> String {
        ScriptError::at(problem.diagnostic.clone(), problem.file.clone(), problem.position).render(&self.sources)
    }

    /// A warning of `check`.
    pub fn render_warning(&self, warning: &Problem) -> String {
        self.render_problem(warning).replacen("error:", "warning:", 1)
    }

    /// Names and texts of the definition files for editors' Rhai language servers.
    pub fn definitions(&self) -> Vec<(String, String)> {
        definitions::files(self.reference())
    }
}
