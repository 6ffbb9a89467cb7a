//! The command line: help, check, api, inspect, parameters, the run directory, signals.

use crate::common::*;
use serde_json::json;

const RECIPE: &str = r#"// Trains a line.
//
// A second paragraph.
let lr = param("lr", 1e-3, "peak learning rate");
let steps = param("steps", 10, "how many updates");
let name = param("name", "line");
let on = param("on", true);
let sizes = param("sizes", [1, 2]);
let extra = param("extra", #{ a: 1 });
let dir = param("dir", (), "where the data lies");
print([lr, steps, name, on, sizes, dir]);
"#;

fn with_recipe(args: &[&str]) -> Said {
    Folder::new().run_with(RECIPE, args)
}

// ---- help ----

#[test]
fn help_lists_the_commands() {
    let folder = Folder::new();
    for args in [&["--help"][..], &["help"]] {
        folder.nepa(args).succeeds().prints(&["run", "check", "api", "inspect", "--stdlib", "NEPA_STDLIB"]);
    }
    folder.nepa(&["--version"]).succeeds().prints(&[env!("CARGO_PKG_VERSION")]);
    folder.nepa(&[]).fails(2).says(&["run", "check", "api", "inspect"]);
}

#[test]
fn help_of_a_command_lists_its_options() {
    let folder = Folder::new();
    folder.nepa(&["run", "--help"]).succeeds().prints(&["--set", "--device", "--out", "--threads", "--seed"]);
    folder.nepa(&["check", "--help"]).succeeds().prints(&["recipe"]);
    folder.nepa(&["api", "--help"]).succeeds().prints(&["--definitions"]);
    folder.nepa(&["inspect", "--help"]).succeeds().prints(&["PATH"]);
}

#[test]
fn shells_complete_commands_and_options() {
    let folder = Folder::new();
    // What bash offers after `nepa …`.
    let offers = |words: &str| {
        let line = format!(
            "source <($nepa completions bash); COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _nepa nepa \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        folder.shell(&line).finish()
    };
    offers("nepa re").succeeds().prints(&["recipes", "report"]);
    offers("nepa run --dev").succeeds().prints(&["--device"]);
    for (shell, part) in [("zsh", "#compdef nepa"), ("fish", "complete -c nepa")] {
        folder.nepa(&["completions", shell]).succeeds().prints(&[part, "recipes"]);
    }
    folder.nepa(&["completions", "bsh"]).fails(2).says(&["bash"]);
}

#[test]
fn man_pages_tell_what_help_does() {
    let folder = Folder::new();
    folder.nepa(&["man", "share/man1"]).succeeds().prints(&["share/man1"]);
    let page = |name: &str| std::fs::read_to_string(folder.path("share/man1").join(name)).unwrap();
    assert!(page("nepa.1").contains(".TH nepa 1") && page("nepa.1").contains("nepa\\-doctor"), "{}", page("nepa.1"));
    assert!(page("nepa-run.1").contains("--nproc") || page("nepa-run.1").contains("\\-\\-nproc"));
    folder.write("file", "");
    let said = folder.nepa(&["man", "file/man1"]);
    said.fails(1).says(&["cannot write man pages to file/man1", "Not a directory"]);
}

#[test]
fn help_of_a_recipe_lists_its_parameters() {
    for help in ["--help", "-h"] {
        let said = with_recipe(&[help]);
        said.succeeds().prints(&[
            "Trains a line.",
            "A second paragraph.",
            "peak learning rate",
            "where the data lies",
            "--set",
        ]);
        for line in [
            "lr: float = 1e-3",
            "steps: int = 10",
            "name: string = \"line\"",
            "on: bool = true",
            "sizes: array = [1, 2]",
            "dir: string (required)",
        ] {
            let squeezed = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.stdout.lines().any(|l| squeezed(l) == line), "`{line}` is missing: {said}");
        }
        assert!(!said.stdout.contains("[0.001"), "the recipe does not run: {said}");
    }
}

#[test]
fn a_default_that_ends_in_a_backslash_ends_there() {
    let folder = Folder::new();
    folder.write("r.rhai", "let s = param(\"sep\", \"\\\\\", \"separator\");\nlet n = param(\"n\", 3, \"number\");");
    let said = folder.nepa(&["run", "r.rhai", "--help"]);
    said.succeeds().prints(&["sep: string  = \"\\\\\"\n", "n: int       = 3\n"]);
    assert!(!said.stdout.contains("param("), "{said}");
}

#[test]
fn help_of_a_recipe_includes_what_its_imports_declare() {
    let folder = Folder::new();
    folder.write("shared.rhai", "fn size() { param(\"size\", 28, \"side of the images\") }");
    let said = folder.run_with("import \"shared\" as s;\nprint(s::size());", &["--help"]);
    said.succeeds().prints(&["size: int", "= 28", "side of the images"]);
    folder.run_with("import \"shared\" as s;\nprint(s::size());", &["--set", "size=32"]).succeeds().prints(&["32"]);
}

// ---- parameters ----

#[test]
fn parameters_take_defaults_and_what_is_set() {
    with_recipe(&["--set", "dir=/data"]).prints(&["[0.001, 10, \"line\", true, [1, 2], \"/data\"]"]).succeeds();
    let set = ["lr=0.5", "steps=3", "name=a=b c", "on=false", "sizes=[7, 8, 9]", "dir=x"];
    let args: Vec<&str> = set.iter().flat_map(|s| ["--set", s]).collect();
    with_recipe(&args).succeeds().prints(&["[0.5, 3, \"a=b c\", false, [7, 8, 9], \"x\"]"]);
}

#[test]
fn a_float_may_be_set_as_an_int_and_stays_a_float() {
    let said = Folder::new()
        .run_with("let lr = param(\"lr\", 0.1);\nprint(type_of(lr) + \" \" + lr / 4);", &["--set", "lr=1"]);
    said.succeeds().prints(&["f64 0.25"]);
}

#[test]
fn the_last_of_several_values_wins() {
    with_recipe(&["--set", "dir=a", "--set", "steps=1", "--set", "steps=2"]).succeeds().prints(&["[0.001, 2, "]);
}

#[test]
fn a_parameter_with_a_computed_name_is_told() {
    let line = "let x = param(\"a\" + \"b\", 1);";
    Folder::new().run(line).fails(1).at("recipe.rhai:1:9", line).says(&["literal"]);
}

// ---- the run directory ----

#[test]
fn a_run_directory_records_what_was_run() {
    let folder = Folder::on_cpu(); // which is recorded
    let script = format!(
        "{RECIPE}run::log(#{{ step: 1, loss: 0.5 }});\nrun::log(#{{ step: 2, loss: tensor(0.25) }});\nrun::write(\"note.txt\", \"hello\");\n"
    );
    let args = ["--set", "dir=/data", "--set", "lr=1", "--out", "a/b", "--seed", "7", "--threads", "2"];
    let said = folder.run_with(&script, &args);
    said.succeeds().says(&["a/b"]);

    let run = folder.json("a/b/run.json");
    assert_eq!(run["state"], "finished");
    let params = json!({ "lr": 1.0, "steps": 10, "name": "line", "on": true, "sizes": [1, 2], "extra": { "a": 1 }, "dir": "/data" });
    assert_eq!(run["params"], params);
    for (key, expected) in
        [("seed", json!(7)), ("threads", json!(2)), ("device", json!("cpu")), ("recipe", json!("recipe.rhai"))]
    {
        assert_eq!(run[key], expected, "{key}");
    }
    for library in ["nepa", "libtorch", "rhai"] {
        assert!(run["versions"][library].as_str().is_some_and(|v| v.contains('.')), "{run}");
    }
    assert!(run["command"].as_array().unwrap().contains(&json!("lr=1")), "{run}");
    assert!(run["started"].as_str() <= run["ended"].as_str(), "{run}");
    assert_eq!(folder.text("a/b/recipe.rhai"), script);
    assert_eq!(folder.text("a/b/metrics.jsonl"), "{\"loss\":0.5,\"step\":1}\n{\"loss\":0.25,\"step\":2}\n");
    assert_eq!(folder.text("a/b/note.txt"), "hello");
}

#[test]
fn a_run_that_fails_says_so_in_its_directory() {
    let folder = Folder::new();
    folder.run_with("let x = param(\"x\", 1);\nrun::log(#{ a: 1 });\nthrow \"diverged\";", &["--out", "o"]).fails(1);
    let run = folder.json("o/run.json");
    assert_eq!((&run["state"], &run["error"], &run["params"]["x"]), (&json!("failed"), &json!("diverged"), &json!(1)));
}

#[test]
fn a_run_directory_without_out_is_made_only_when_it_is_needed() {
    let folder = Folder::new();
    folder.run("print(1);").succeeds();
    assert_eq!(folder.names(""), ["recipe.rhai"]);
    for n in 1..=3 {
        folder.run("print(run::dir());").succeeds().prints(&["runs/recipe-"]);
        assert_eq!(folder.names("runs").len(), n, "each run has its own, within a second too");
    }
}

#[test]
fn an_output_directory_that_holds_a_run_or_anything_else_is_refused() {
    let folder = Folder::new();
    folder.run_with("print(1);", &["--out", "o"]).succeeds();
    let before = folder.text("o/run.json");
    let said = folder.run_with("print(\"again\");", &["--out", "o"]);
    said.fails(1).says(&["o already holds a finished run", "--out"]);
    assert_eq!((said.stdout.as_str(), folder.text("o/run.json")), ("", before));

    folder.write("photos/cat.png", "precious");
    folder.run_with("print(1);", &["--out", "photos"]).fails(1).says(&["photos is not empty"]);
    assert_eq!(folder.names("photos"), ["cat.png"]);

    std::fs::create_dir(folder.path("empty")).unwrap();
    folder.run_with("print(1);", &["--out", "empty"]).succeeds();
}

#[test]
fn an_output_directory_in_use_by_another_run_is_refused() {
    let folder = Folder::new();
    folder.write("long.rhai", "run::log(#{ a: 1 });\nprint(\"ready\");\nloop { }");
    let first = folder.start(&["run", "long.rhai", "--device", "cpu", "--out", "o"], &[]);
    first.wait_for("ready");
    folder.run_with("print(1);", &["--out", "o"]).fails(1).says(&["o is in use by another run", "--out"]);
    assert_eq!(folder.json("o/run.json")["state"], "running");
    first.signal(libc::SIGTERM);
    first.finish().fails(143);
    assert_eq!(folder.text("o/recipe.rhai"), folder.text("long.rhai"));
}

#[test]
fn inspect_tells_a_run_that_was_killed_from_one_under_way() {
    let folder = Folder::new();
    folder.write("long.rhai", "print(\"ready\");\nloop { }");
    let run = folder.start(&["run", "long.rhai", "--device", "cpu", "--out", "o"], &[]);
    run.wait_for("ready");
    folder.nepa(&["inspect", "o"]).succeeds().prints(&["running"]);
    drop(run); // kill -9
    folder.nepa(&["inspect", "o"]).succeeds().prints(&["killed"]);
    folder.run_with("print(1);", &["--out", "o"]).fails(1).says(&["already holds a run"]);
}

// ---- signals ----

fn interrupted(script: &str, signal: i32, code: i32) {
    let folder = Folder::new();
    folder.write("long.rhai", script);
    let run = folder.start(&["run", "long.rhai", "--device", "cpu", "--out", "o"], &[]);
    run.wait_for("ready").signal(signal);
    run.finish().fails(code).says(&["interrupted", "o"]);
    let info = folder.json("o/run.json");
    assert_eq!((&info["state"], &info["params"]["x"]), (&json!("interrupted"), &json!(3)), "{info}");
    assert_eq!(folder.text("o/metrics.jsonl"), "{\"a\":1}\n");
}

const LONG: &str = "let x = param(\"x\", 3);\nrun::log(#{ a: 1 });\n";

#[test]
fn ctrl_c_ends_a_script_with_130_and_says_so_in_its_directory() {
    interrupted(&format!("{LONG}print(\"ready\");\nloop {{ }}"), libc::SIGINT, 130);
}

#[test]
fn sigterm_ends_a_script_with_143_and_says_so_in_its_directory() {
    interrupted(&format!("{LONG}print(\"ready\");\nloop {{ }}"), libc::SIGTERM, 143);
}

#[test]
fn ctrl_c_gets_through_functions_callbacks_and_modules() {
    let script = format!("{LONG}fn spin() {{ print(\"ready\"); loop {{ }} }}\nno_grad(|| spin());");
    interrupted(&script, libc::SIGINT, 130);
    let script = format!(
        "{LONG}let m = nn::define(#{{}}, |m, x| {{ print(\"ready\"); loop {{ }} }});\nnn::sequential([m]).forward(ones([1]));"
    );
    interrupted(&script, libc::SIGINT, 130);
}

#[test]
fn ctrl_c_is_not_caught_by_the_script() {
    interrupted(
        &format!("{LONG}print(\"ready\");\nloop {{ try {{ loop {{ }} }} catch (e) {{ }} }}"),
        libc::SIGINT,
        130,
    );
}

#[test]
fn ctrl_c_without_a_run_directory_just_ends() {
    let folder = Folder::new();
    folder.write("long.rhai", "print(\"ready\");\nloop { }");
    let run = folder.start(&["run", "long.rhai", "--device", "cpu"], &[]);
    run.wait_for("ready").signal(libc::SIGINT);
    run.finish().fails(130).says(&["interrupted"]);
    assert_eq!(folder.names(""), ["long.rhai"]);
}

// ---- seeds ----

#[test]
fn the_seed_decides_everything_random() {
    let script = format!(
        "print(seed()); print(randn([3]).to_array()); print(nn::vit_nepa({TINY}).forward(ones([1, 3, 8, 8])).sum([0, 1]).to_array());"
    );
    let with = |seed: &str| Folder::new().run_with(&script, &["--seed", seed]).numbers();
    let (a, b, c) = (with("1"), with("1"), with("2"));
    assert_eq!(a, b);
    assert_eq!((a[0][0], c[0][0]), (1.0, 2.0));
    assert_ne!(a[1], c[1]);
}

#[test]
fn an_own_seed_starts_the_generator_anew() {
    let said = run(
        "seed(5); let a = randn([4]); let b = randn([4]); seed(5); print(a.equal(randn([4]))); print(a.equal(b)); print(b.equal(randn([4])));",
    );
    assert_eq!(said.values(), [true, false, true]);
}

// ---- imports and the standard library ----

#[test]
fn imports_are_relative_to_the_importing_file_wherever_nepa_is_started() {
    let folder = Folder::new();
    folder.write("recipes/main.rhai", "import \"parts/a\" as a;\nprint(a::f());\nprint(run::beside(\"../data\"));");
    folder.write("recipes/parts/a.rhai", "import \"b\" as b;\nfn f() { b::g() + 1 }");
    folder.write("recipes/parts/b.rhai", "fn g() { 41 }");
    let inside = folder.path("recipes/main.rhai").display().to_string();
    for recipe in ["recipes/main.rhai", "./recipes/main.rhai", &inside] {
        folder.nepa(&["run", recipe, "--device", "cpu"]).succeeds().prints(&["42"]);
    }
    folder.nepa(&["run", "recipes/main.rhai", "--device", "cpu"]).prints(&["\ndata\n"]);
}

#[test]
fn a_folder_overrides_the_standard_library_file_by_file() {
    let folder = Folder::new();
    folder.write("mine/pretrain.rhai", "//! Mine.\n/// Says so.\nfn whose() { \"mine\" }");
    folder.write("mine/new.rhai", "fn whose() { \"new\" }");
    folder.write(
        "recipe.rhai",
        "import \"std/pretrain\" as p;\nimport \"std/new\" as n;\nprint(p::whose() + n::whose());",
    );
    let run = ["run", "recipe.rhai", "--device", "cpu"];
    folder.nepa(&[&run[..], &["--stdlib", "mine"]].concat()).succeeds().prints(&["minenew"]);
    folder.nepa_with(&[("NEPA_STDLIB", "mine")], &run).succeeds().prints(&["minenew"]);
    folder.nepa(&["api", "std/pretrain", "--stdlib", "mine"]).succeeds().prints(&["Mine.", "pretrain::whose()"]);
    // What the folder lacks comes from the binary.
    folder.write("other/unrelated.rhai", "");
    folder.write("recipe.rhai", "import \"std/pretrain\" as p;");
    folder.nepa(&[&run[..], &["--stdlib", "other"]].concat()).succeeds();
}

// ---- check ----

#[test]
fn check_accepts_every_recipe_and_example_that_comes_along() {
    let folder = Folder::new();
    let mut checked = 0;
    for dir in ["examples", "recipes"] {
        for name in names_in(&repository(dir)).iter().filter(|n| n.ends_with(".rhai")) {
            let recipe = repository(dir).join(name).display().to_string();
            folder.nepa(&["check", &recipe]).succeeds().prints(&[": ok ("]);
            folder.nepa(&["run", &recipe, "--help"]).succeeds().prints(&["--set"]);
            checked += 1;
        }
    }
    assert!(checked >= 2);
}

#[test]
fn check_tells_every_problem_and_runs_nothing() {
    let folder = Folder::new();
    folder.write("helper.rhai", "fn f(x) {\n    x.smu()\n}\n");
    folder.write(
        "recipe.rhai",
        "import \"helper\" as h;\nprint(\"ran\");\nnn::linera(1, 2);\nh::g(1);\nif false { nothing(); }\n",
    );
    let said = folder.nepa(&["check", "recipe.rhai"]);
    said.fails(1).at("recipe.rhai:3:5", "nn::linera(1, 2);").at("recipe.rhai:4:4", "h::g(1);");
    said.at("recipe.rhai:5:12", "if false { nothing(); }").at("helper.rhai:2:7", "    x.smu()").says(&["4 problems"]);
    assert!(!said.stdout.contains("ran"), "{said}");
}

// ---- api ----

#[test]
fn api_prints_everything_or_what_is_asked_for() {
    let folder = Folder::new();
    folder.nepa(&["api"]).succeeds().prints(&[
        "== nn ==",
        "== Tensor ==",
        "nn::vit_nepa(config: map)",
        "== std/pretrain ==",
    ]);
    let nn = folder.nepa(&["api", "nn"]);
    nn.succeeds().prints(&["nn::linear(inputs: int, outputs: int)"]);
    assert!(!nn.stdout.contains("optim::"), "{nn}");
    for name in ["nn::layer_norm", "layer_norm"] {
        folder.nepa(&["api", name]).succeeds().prints(&[
            "nn::layer_norm(size: int",
            "eps: float = 1e-12",
            "Added to the variance.",
        ]);
    }
    folder.nepa(&["api", "Tensor"]).succeeds().prints(&["Tensor.matmul("]);
    folder.nepa(&["api", "matmul"]).succeeds().prints(&["Matrix product"]);
    folder.nepa(&["api", "std/pretrain"]).succeeds().prints(&["pretrain::"]);
}

#[test]
fn api_knows_the_languages_own_functions() {
    let folder = Folder::new();
    let pieces = ["push(array: array, item: any)", "Rhai's own. Add a new element"];
    for args in [&["api", "push"][..], &["api", "--search", "push"], &["api", "--search", "array.push"]] {
        folder.nepa(args).succeeds().prints(&pieces);
    }
    folder.nepa(&["api", "to_int"]).succeeds().prints(&["to_int(x: float) -> int", "dropping its fraction"]);
    folder.nepa(&["api", "--search", "parse_float"]).succeeds().prints(&["parse_float(string: string) -> float"]);
    folder.nepa(&["api", "--search", "ln"]).succeeds().prints(&["ln(x: float) -> float"]);
    // Of tensors, and of numbers.
    folder.nepa(&["api", "log"]).succeeds().prints(&["Tensor.log()", "log(x: float) -> float", "natural log"]);
    folder.nepa(&["api", "pusj"]).fails(1).says(&["did you mean `push`?"]);
}

#[test]
fn api_of_a_name_that_does_not_exist_gives_the_nearest_one() {
    let folder = Folder::new();
    folder.nepa(&["api", "nn::linaer"]).fails(1).says(&["`nn::linaer`", "did you mean `nn::linear`?"]);
    folder.nepa(&["api", "std/pretrian"]).fails(1).says(&["did you mean `std/pretrain`?"]);
    folder.nepa(&["api", "matmull"]).fails(1).says(&["matmul"]);
}

#[test]
fn api_writes_definitions_for_editors() {
    let folder = Folder::new();
    folder.nepa(&["api", "--definitions", "defs"]).succeeds().prints(&["defs"]);
    let has = |file: &str, pieces: &[&str]| {
        let text = folder.text(&format!("defs/{file}"));
        for piece in pieces {
            assert!(text.contains(piece), "{file}: {piece} is missing");
        }
    };
    has(
        "nn.d.rhai",
        &[
            "\nmodule nn;\n",
            "fn linear(inputs: int, outputs: int) -> Module;",
            "/// An affine map of the last dimension",
            "/// - `num_hidden_layers: int = 12`: ",
        ],
    );
    has(
        "std-pretrain.d.rhai",
        &[
            "\nmodule \"../std/pretrain\";\n",
            "fn fit(model: ?, images: ?, given: ?) -> ?;",
            "/// - `lr: float = 0.001`: ",
        ],
    );
    has("nepa.d.rhai", &["module static;\n", "fn get shape(t: Tensor) -> array;", "op +(Tensor, Tensor) -> Tensor;"]);
    // A function with defaults, by each number of arguments, and by name.
    has(
        "nepa.d.rhai",
        &[
            "fn scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor;",
            "value: Tensor, attn_mask: Tensor | (), dropout_p: float, is_causal: bool) -> Tensor;",
            "fn scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, options: map) -> Tensor;",
        ],
    );
    // No word is left that is no type of the language server's.
    for file in folder.names("defs").iter().filter(|name| !name.starts_with("rhai")) {
        let text = folder.text(&format!("defs/{file}"));
        for line in text.lines().filter(|line| line.starts_with("fn ") || line.starts_with("op ")) {
            let odd = [" or ", " of ", ": any", "> any", "$", ">>", "\""].iter().find(|odd| line.contains(**odd));
            assert!(odd.is_none(), "{file}: {line}: {odd:?}");
        }
    }
    folder.write("file", "");
    folder.nepa(&["api", "--definitions", "file/x"]).fails(1).says(&["file/x"]);
}

// ---- inspect ----

#[test]
fn inspect_shows_a_model_folder_and_its_file() {
    let dir = golden("gelu-affine.classify-causal-last");
    let folder = Folder::new();
    for path in [dir.clone(), format!("{dir}/model.safetensors")] {
        let said = folder.nepa(&["inspect", &path]);
        said.succeeds().prints(&[
            "67 tensors",
            "hidden_size",
            "classifier.weight",
            "float32",
            "[7, 64]",
            "configuration",
        ]);
    }
    let save = format!(
        "checkpoint::save(checkpoint::load(\"{dir}\"), \"m\", #{{ weights: \"ema\", class_names: [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\"] }});"
    );
    folder.run(&save).succeeds();
    folder.nepa(&["inspect", "m"]).succeeds().prints(&["provenance", "ema", "classes: 7 (a, b", "recipe.rhai"]);
}

#[test]
fn inspect_shows_a_run_directory() {
    let folder = Folder::new();
    let script = "let lr = param(\"lr\", 0.5);\nrun::log(#{ loss: 0.125 });\ncheckpoint::save(nn::linear(2, 2), run::path(\"final\"));";
    folder.run_with(script, &["--out", "o"]).succeeds();
    folder.nepa(&["inspect", "o"]).succeeds().prints(&["finished", "\"lr\":0.5", "metrics: 1", "0.125", "o/final"]);
}

#[test]
fn inspect_of_anything_else_says_what_it_expected() {
    let folder = Folder::new();
    folder.write("runs/a/notes.txt", "");
    folder.write("photo.png", "no tensors");
    folder.nepa(&["inspect", "runz"]).fails(1).says(&["runz does not exist", "runs?"]);
    folder.nepa(&["inspect", "runs"]).fails(1).says(&["neither", "model.safetensors", "run.json"]);
    folder.nepa(&["inspect", "photo.png"]).fails(1).says(&["photo.png", "safetensors"]);
    folder.copy_golden("swiglu", "models/swiglu");
    folder.nepa(&["inspect", "models"]).fails(1).says(&["models/swiglu"]);
    folder.write("models/swiglu/config.json", "{}");
    folder.nepa(&["inspect", "models/swiglu"]).fails(1).says(&["config.json", "missing"]);
}

#[test]
fn parameters_are_in_the_run_directory_while_the_run_is_under_way() {
    let folder = Folder::new();
    let script = "let n = param(\"n\", 3);\nprint(read_json(run::path(\"run.json\")).params);";
    folder.run_with(script, &["--set", "n=5", "--out", "out"]).succeeds().prints(&["\"n\": 5"]);
}

#[test]
fn check_does_not_judge_what_only_a_run_can_know() {
    let folder = Folder::new();
    // An alias of its own in each function, keys that an index sets, and a quotient in a text.
    folder.write("lib/a.rhai", "fn one() { 1 }");
    folder.write("lib/b.rhai", "fn two() { 2 }");
    let recipe = "fn first() { import \"lib/a\" as m; m::one() }\nfn second() { import \"lib/b\" as m; m::two() }\n\
        let o = #{}; o[\"add\"] = |x| x + first() + second(); print(o.add(1)); print(\"rows: \" + 7 / 2);";
    folder.write("aliases.rhai", recipe);
    let said = folder.nepa(&["check", "aliases.rhai"]);
    said.succeeds();
    assert!(!said.stderr.contains("division"), "{said}");
    folder.nepa(&["run", "aliases.rhai"]).succeeds().prints(&["4", "rows: 3"]);
    folder.write("none.rhai", format!("{recipe}\nfn third() {{ import \"lib/a\" as m; m::three() }}"));
    folder.nepa(&["check", "none.rhai"]).fails(1).says(&["unknown function `m::three`"]);
    folder.write("lib/maps.rhai", "fn make() { #{ walk: |n| n + 1 } }");
    let recipe = "import \"lib/maps\" as maps;\nlet path = \"lib/maps\";\nimport path as again;\n\
        let o = maps::make();\nprint(o.walk(3));\nprint(type_of(again::make()));";
    folder.write("recipe.rhai", recipe);
    folder.nepa(&["check", "recipe.rhai"]).succeeds();
    folder.nepa(&["run", "recipe.rhai"]).succeeds().prints(&["4", "map"]);
}
