//! The reference that `nepa api` prints covers everything that a script can call.

use crate::common::repository;
use nepa::run::signals::Interrupt;
use nepa::script::Host;
use nepa::script::docs::{FnDoc, Reference};

fn reference() -> &'static Reference {
    Box::leak(Box::new(Host::new(None, Interrupt::default()))).reference()
}

#[test]
fn every_function_is_documented() {
    let reference = reference();
    assert!(reference.functions.len() > 200, "{}", reference.functions.len());
    for f in &reference.functions {
        let text = f.doc.join(" ");
        assert!(text.trim().len() > 5, "{} has no documentation", f.signature());
        assert!(text.trim_end().ends_with(['.', '`', ':', ']', '…']), "{} ends abruptly: {text}", f.signature());
    }
}

#[test]
fn every_namespace_and_type_is_introduced() {
    let reference = reference();
    for (group, about) in &reference.groups {
        assert!(about.len() > 10, "{group}: {about:?}");
        assert!(reference.functions.iter().any(|f| f.group == *group), "{group} has no functions");
    }
    for f in &reference.functions {
        assert!(reference.groups.iter().any(|g| g.0 == f.group), "{} belongs to no group", f.signature());
    }
}

#[test]
fn every_function_with_a_map_of_options_has_them_documented() {
    let reference = reference();
    let takes = |f: &&FnDoc, name: &str| f.params.iter().any(|(n, typ)| *n == name && typ == "map");
    let with_options: Vec<_> = reference.functions.iter().filter(|f| takes(f, "options")).collect();
    assert!(with_options.len() > 15, "{}", with_options.len());
    for f in with_options {
        assert!(!f.options.is_empty(), "the options of {} are not documented", f.signature());
    }
    // A model's configuration is printed once, under nn::vit_nepa, as the namespace says.
    let about = reference.groups.iter().find(|g| g.0 == "nn").unwrap().1;
    assert!(about.contains("nn::vit_nepa"), "{about}");
    // A script of one's own knows what it takes.
    for f in reference.functions.iter().filter(|f| takes(f, "config") && f.name != "build") {
        assert!(f.group == "nn" && f.options_at == Some(0), "{}", f.signature());
    }
    let shown = |name| reference.print(Some(name)).unwrap();
    assert!(shown("nn::vit_nepa").contains("      hidden_size: int"), "{}", shown("nn::vit_nepa"));
    assert!(shown("nn::mlp").contains("Options: those of nn::vit_nepa"), "{}", shown("nn::mlp"));
}

/// Long printouts are kept short by reference to functions with the same options: never to others of the same names.
#[test]
fn what_is_printed_of_options_is_each_functions_own() {
    let reference = reference();
    let text = reference.print(None).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    // The lines from a signature to an empty one, or those of the overload before.
    let block = |f: &FnDoc| -> String {
        let mut at = lines.iter().position(|line| *line == f.signature()).unwrap();
        while lines[at + 1] == "    (as above)" {
            at = lines[..at - 1].iter().rposition(|line| line.is_empty()).unwrap() + 1;
        }
        lines[at..].iter().take_while(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
    };
    let mut referred = 0;
    for f in reference.functions.iter().filter(|f| !f.options.is_empty()) {
        let mut shown = block(f);
        if let Some((_, name)) = shown.split_once("    Options: those of ") {
            let name = name.trim();
            shown = reference.functions.iter().filter(|f| f.full_name() == name).map(block).collect();
            referred += 1;
        }
        for o in &f.options {
            let default = o.default.as_ref().map_or(String::new(), |default| format!(" = {default}"));
            let expected = format!("      {}: {}{default}\n          {}\n", o.name, o.of, o.doc);
            assert!(shown.contains(&expected), "{} does not have\n{expected}in\n{shown}", f.signature());
        }
    }
    assert!(referred > 3, "{referred}");
    let shown = |name| reference.print(Some(name)).unwrap();
    assert!(
        shown("transform::random_grayscale").contains("p: float = 0.1"),
        "{}",
        shown("transform::random_grayscale")
    );
    assert!(!shown("optim::lamb").contains("Options: those of"), "{}", shown("optim::lamb"));
}

#[test]
fn every_option_is_documented() {
    let reference = reference();
    let native = reference.functions.iter().map(|f| (f.signature(), &f.options));
    let scripts = reference.stdlib.iter().flat_map(|m| m.functions.iter().map(|f| (f.name.clone(), &f.options)));
    for (function, options) in native.chain(scripts) {
        for o in options {
            assert!(o.doc.trim().len() > 5, "option {} of {function} has no documentation", o.name);
        }
    }
}

#[test]
fn options_are_shown_with_the_types_that_users_know() {
    let reference = reference();
    let shows = |query: &str, lines: &[&str]| {
        let text = reference.print(Some(query)).unwrap();
        for line in lines {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    };
    shows("nn::vit_nepa", &["hidden_act: \"gelu\" | \"silu\" = \"gelu\"", "intermediate_size: int or () = ()"]);
    shows("Module.encode", &["input_mask: Tensor or () = ()", "hidden_states: bool = false"]);
    shows(
        "data::loader",
        &["on_bad: \"error\" | \"skip\" = \"error\"", "data::loader(source: Source, transforms: array"],
    );
    shows("pretrain::fit", &["epochs: ", "Options:"]);
}

/// The code spans after `Example:` in a text.
fn examples(text: &str) -> Vec<String> {
    text.split("Example:")
        .skip(1)
        .filter_map(|rest| Some(rest.trim_start().strip_prefix('`')?.split_once('`')?.0.into()))
        .collect()
}

#[test]
fn every_example_in_the_documentation_parses() {
    let reference = reference();
    let engine = rhai::Engine::new();
    let mut found = 0;
    for f in &reference.functions {
        let text = f.doc.join("\n");
        assert_eq!(
            text.matches("Example:").count(),
            examples(&text).len(),
            "{}: an example without code",
            f.signature()
        );
        for example in examples(&text) {
            found += 1;
            // An ellipsis stands for what the reader adds.
            if let Err(e) = engine.compile(example.replace('…', "")) {
                panic!("the example of {} does not parse: {e}\n{example}", f.signature());
            }
        }
    }
    assert!(found >= 8, "{found}");
}

/// Where every function but operators has an example that runs.
const SHOWN: [&str; 6] = ["tensors", "Tensor", "ValuesAndIndices", "linalg", "fft", "init"];

#[test]
fn every_example_of_tensors_and_layers_runs_and_is_true() {
    let reference = reference();
    let mut script = String::new();
    for f in &reference.functions {
        let found = examples(&f.doc.join("\n"));
        let is_operator = !f.name.starts_with(|c: char| c.is_alphabetic()) || f.name == "index$get$";
        let told = f.name == "to_string" || f.name == "to_debug" || is_operator;
        assert!(told || !found.is_empty() || !SHOWN.contains(&f.group), "{} has no example", f.signature());
        if !(SHOWN.contains(&f.group) || f.group == "nn" && found.iter().any(|code| code.contains("=="))) {
            continue;
        }
        for example in found.iter().filter(|code| !code.contains('…')) {
            let name = format!("{} `{}`", f.name, example.replace(['`', '"', '\\'], "'"));
            script += &format!(
                "try {{ let got = (|| {{ {example} }}).call(); if type_of(got) == \"bool\" && !got {{ print(\"false: \
                 {name}\"); }} }} catch (e) {{ print(\"{name}: \" + e.message); }}\n"
            );
        }
    }
    let said = crate::common::run(&(script + "print(\"all done\");"));
    said.succeeds();
    assert_eq!(said.stdout.trim(), "all done", "{said}");
}

#[test]
fn the_standard_library_is_documented() {
    let reference = reference();
    let mut files: Vec<String> = crate::common::names_in(&repository("stdlib"));
    files.retain(|n| n.ends_with(".rhai"));
    let expected: Vec<String> = files.iter().map(|n| format!("std/{}", n.trim_end_matches(".rhai"))).collect();
    let found: Vec<String> = reference.stdlib.iter().map(|m| m.path.clone()).collect();
    assert_eq!(found, expected, "a script that does not compile is left out");
    for module in &reference.stdlib {
        assert!(module.about.trim().len() > 20, "{} has no introduction", module.path);
        for f in module.functions.iter().filter(|f| !f.name.starts_with('_')) {
            assert!(f.doc.trim().len() > 10, "{}::{} has no documentation", module.path, f.name);
        }
    }
}

#[test]
fn the_whole_reference_prints_every_function() {
    let reference = reference();
    let text = reference.print(None).unwrap();
    for f in &reference.functions {
        assert!(text.lines().any(|l| l == f.signature()), "{} is not printed", f.signature());
    }
    for module in &reference.stdlib {
        assert!(text.contains(&format!("== {} ==", module.path)), "{} is not printed", module.path);
    }
}
