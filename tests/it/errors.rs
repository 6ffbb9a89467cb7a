//! Mistakes in scripts and on the command line: each is told at its place, with what was expected,
//! and never by a panic or a C++ stack (which `common` checks after every command).

use crate::common::*;

// ---- options ----

#[test]
fn an_option_that_does_not_exist_is_told_with_the_nearest_one() {
    run("let a = 1;\nlet b = nn::blocks(#{ hidden_sise: 8 });").blames(
        "recipe.rhai:2:23",
        "let b = nn::blocks(#{ hidden_sise: 8 });",
        &["unknown option `hidden_sise` of nn::blocks; did you mean `hidden_size`?", "num_hidden_layers"],
    );
}

#[test]
fn a_reducing_gap_is_at_least_1() {
    for (call, of) in [
        ("resize(8, #{ reducing_gap: 0.5 })", "resize"),
        ("resized_crop(0, 0, 9, 9, 8, #{ reducing_gap: 0.5 })", "resized_crop"),
        ("random_resized_crop(8, #{ reducing_gap: 0.5 })", "random_resized_crop"),
    ] {
        let said = format!("option `reducing_gap` of transform::{of}: expected a number from 1.0 on, found 0.5");
        let call = format!("transform::{call}");
        run(&call).blames("recipe.rhai:1:12", &call, &[&said]);
    }
    run("print(transform::resize(8, #{ reducing_gap: 2 })); print(transform::random_resized_crop(8, #{ reducing_gap: 1.5 }))")
        .prints(&["resize(8, bilinear, reducing_gap 2)", "random_resized_crop([8, 8], reducing_gap: 1.5)"]);
}

#[test]
fn a_key_that_a_map_does_not_have_is_told_with_the_nearest_one() {
    let map = "let found = #{ top1: 0.5, history: [] };\n";
    run(&format!("{map}print(found.histroy);")).blames(
        "recipe.rhai:2:13",
        "print(found.histroy);",
        &["the map has no `histroy`", "did you mean `history`?"],
    );
    run(&format!("{map}found.best[0] = 1;")).fails(1).says(&["the map has no `best`", "it has history, top1"]);
    run("let found = #{}; print(found.x);").fails(1).says(&["the map has no `x`", "it is empty"]);
    let counted = run("let seen = #{};\nseen[\"cat\"] += 1;");
    counted.fails(1).says(&["no `+` takes ((), int)", "`x ?? 0` is 0 where x is ()"]);
    // An assignment adds one, and what is caught says the same.
    let rest =
        "found.new_key = 3; try { found.topp1 } catch (e) { print(`${e.message}: ${e.hint}, ${found.new_key}`); }";
    run(&format!("{map}{rest}")).succeeds().prints(&["the map has no `topp1`: did you mean `top1`?, 3"]);
}

#[test]
fn every_function_with_options_rejects_an_unknown_one() {
    let setup = format!(
        "let m = nn::vit_nepa({TINY}); let x = zeros([1, 3, 8, 8]); let h = ones([1, 3, 8]);\n\
         let data = data::idx(\"{}\", \"test\");\n",
        fashion()
    );
    let calls = [
        "nn::vit_nepa(#{ bogus: 1 })",
        "nn::patch_embed(#{ bogus: 1 })",
        "nn::attention(#{ bogus: 1 })",
        "nn::mlp(#{ bogus: 1 })",
        "nn::block(#{ bogus: 1 })",
        "nn::classifier(#{ bogus: 1 })",
        "nn::linear(2, 2, #{ bogus: 1 })",
        "nn::layer_norm(2, #{ bogus: 1 })",
        "nn::conv2d(2, 2, #{ bogus: 1 })",
        "nn::rotary_embedding(#{ bogus: 1 })",
        "nn::vit_nepa(#{}, #{ bogus: m })",
        "nn::block(#{}, #{ bogus: m })",
        "m.encode(x, #{ bogus: 1 })",
        "m.load_state_dict(m.state_dict(), #{ bogus: 1 })",
        "loss::next_embedding(h, h, #{ bogus: 1 })",
        "loss::next_embedding_intermediate([h, h, h], h, #{ bogus: 1 })",
        "loss::cross_entropy(ones([2, 3]), arange(2), #{ bogus: 1 })",
        "optim::adamw(m, #{ bogus: 1 })",
        "optim::adamw(m, #{}, |name, t| #{ bogus: 1 })",
        "optim::cosine(#{ bogus: 1 })",
        "optim::llrd_cosine(#{ bogus: 1 })",
        "optim::llrd_cosine_warmup(#{ bogus: 1 })",
        "data::loader(data, [], #{ bogus: 1 })",
        "transform::random_resized_crop(8, #{ bogus: 1 })",
        "transform::resized_crop(0, 0, 1, 1, 8, #{ bogus: 1 })",
        "transform::resize(8, #{ bogus: 1 })",
        "transform::random_crop(#{ bogus: 1 })",
        "transform::random_crop(8, #{ bogus: 1 })",
        "transform::random_horizontal_flip(#{ bogus: 1 })",
        "transform::random_vertical_flip(#{ bogus: 1 })",
        "transform::color_jitter(#{ bogus: 1 })",
        "transform::random_grayscale(#{ bogus: 1 })",
        "transform::gaussian_blur(#{ bogus: 1 })",
        "transform::random_solarize(#{ bogus: 1 })",
        "transform::rand_augment(\"rand-m9\", #{ bogus: 1 })",
        "transform::three_augment(#{ bogus: 1 })",
        "transform::op(\"Invert\", [], #{ bogus: 1 })",
        "transform::random_erasing(#{ bogus: 1 })",
        "transform::mixup(#{ bogus: 1 })",
        "data::synthetic(#{ bogus: 1 })",
        "checkpoint::load_into(m, \"x.safetensors\", #{ bogus: 1 })",
        "checkpoint::save(m, \"x\", #{ bogus: 1 })",
        "plot::lines(\"x.png\", #{}, #{ bogus: 1 })",
        "plot::bars(\"x.png\", [], #{ bogus: 1 })",
        "plot::images(\"x.png\", x, #{ bogus: 1 })",
    ];
    // One process for all: each complaint is caught and printed. What is not written out, only a run can find.
    let hidden = |call: &str| call.replace("#{ bogus: 1 }", "bogus.call(1)").replace("#{ bogus: m }", "bogus.call(m)");
    let body: String = calls
        .iter()
        .map(|c| format!("try {{ {}; print(\"accepted\"); }} catch (e) {{ print(e.message); }}\n", hidden(c)))
        .collect();
    let said = run(&format!("{setup}let bogus = |x| #{{ bogus: x }};\n{body}"));
    said.succeeds();
    assert_eq!(said.stdout.lines().count(), calls.len(), "{said}");
    let folder = Folder::new();
    let body: String = calls.iter().map(|c| format!("{c};\n")).collect();
    folder.write("recipe.rhai", format!("{setup}{body}"));
    let checked = folder.nepa(&["check", "recipe.rhai"]);
    checked.fails(1);
    for (call, message) in calls.iter().zip(said.stdout.lines()) {
        assert!(message.contains("unknown") && message.contains("`bogus`"), "{call}: {message}");
        // Parts of a model, and what a function returns, are not options.
        if !call.contains("#{ bogus: m }") && !call.contains('|') {
            assert!(checked.stderr.contains(&format!("error: {message}\n")), "{call}: {message}, but {checked}");
        }
    }
}

#[test]
fn an_option_of_the_wrong_type_is_told_with_both_types() {
    for (option, expected) in [
        ("hidden_size: \"wide\"", "option `hidden_size` of nn::blocks: expected an integer, found the string \"wide\""),
        ("hidden_size: 8.5", "option `hidden_size` of nn::blocks: expected an integer, found the float 8.5"),
        ("qk_norm: 1", "option `qk_norm` of nn::blocks: expected true or false, found the integer 1"),
        ("layer_norm_eps: [1]", "option `layer_norm_eps` of nn::blocks: expected a number, found an array"),
        ("hidden_size: ()", "option `hidden_size` of nn::blocks: expected an integer, found ()"),
        ("hidden_size: ones([2])", "option `hidden_size` of nn::blocks"),
        ("hidden_act: \"glu\"", "unknown value \"glu\"; did you mean `gelu`? (one of: gelu, silu)"),
    ] {
        let line = format!("nn::blocks(#{{ {option} }});");
        run(&line).blames("recipe.rhai:1:15", &line, &[expected]);
    }
}

#[test]
fn an_option_of_the_right_type_but_a_bad_value_is_told_with_the_value() {
    for (call, pieces) in [
        ("nn::attention(#{ hidden_size: 10, num_attention_heads: 3 });", &["num_attention_heads", "10", "3"][..]),
        ("nn::attention(#{ hidden_size: 12, num_attention_heads: 2 });", &["multiple of 4", "12", "6"]),
        ("nn::attention(#{ num_attention_heads: 0 });", &["num_attention_heads", "found 0"]),
        ("nn::patch_embed(#{ image_size: 30, patch_size: 14 });", &["patch_size", "14", "30"]),
        ("nn::blocks(#{ drop_path_prob: 1.0 });", &["drop_path_prob", "found 1"]),
        ("nn::blocks(#{ pos_embed_rescale: 0.5 });", &["pos_embed_rescale", "found 0.5"]),
        ("nn::blocks(#{ pos_embed_images_per_draw: 0 });", &["pos_embed_images_per_draw", "found 0"]),
        ("transform::mixup(#{ images_per_draw: 3 });", &["images_per_draw", "an even number of images, found 3"]),
        ("nn::drop_path(-0.1);", &["drop_path", "-0.1"]),
        ("nn::linear(0, 3);", &["positive", "0 -> 3"]),
        ("nn::conv2d(3, 4, #{ groups: 2 });", &["groups", "found groups 2"]),
        ("nn::rotary_embedding(#{ head_size: 6 });", &["head_size", "found 6"]),
        ("optim::adamw(nn::linear(2, 2), #{ betas: [0.9, 1.5] });", &["betas", "1.5"]),
        ("optim::cosine(#{ total_steps: 0 });", &["total_steps", "found 0"]),
        ("optim::cosine(#{ total_steps: 10, warmup_steps: 11 });", &["warmup_steps", "10", "found 11"]),
        ("optim::ema(nn::linear(2, 2), 1.0);", &["decay", "found 1"]),
        ("loss::cross_entropy(ones([1, 2]), arange(1), #{ label_smoothing: 2 });", &["label_smoothing", "found 2"]),
    ] {
        let column = call.find("::").unwrap() + 3;
        run(call).blames(&format!("recipe.rhai:1:{column}"), call, pieces);
    }
}

#[test]
fn a_key_at_fault_is_pointed_at_in_nested_maps_and_sums_of_maps() {
    let line = "nn::blocks(#{ hidden_size: 8 } + #{ num_hidden_layers: 1, qk_norm: 2 });";
    run(line).blames("recipe.rhai:1:59", line, &["option `qk_norm` of nn::blocks: expected true or false"]);
    let line = "optim::adamw(nn::linear(2, 2), #{ groups: [#{ pattern: \"*\", lr_scale: \"big\" }] });";
    run(line).blames("recipe.rhai:1:61", line, &["lr_scale", "expected a number"]);
    // In a variable's map, which `check` finds; and in one that is made, at the call.
    let script = "let o = #{ hidden_sise: 8 };\nnn::blocks(o);";
    run(script).blames("recipe.rhai:1:12", "let o = #{ hidden_sise: 8 };", &["unknown option `hidden_sise`"]);
    let script = "let o = || #{ hidden_sise: 8 };\nnn::blocks(o.call());";
    run(script).blames("recipe.rhai:2:5", "nn::blocks(o.call());", &["unknown option `hidden_sise`"]);
}

/// Before the run, which may get there after hours: recipes/cifar10.rhai has such a table.
/// In a library of one's own too, however its folder is written.
#[test]
fn options_are_checked_before_the_run_in_a_library_of_ones_own() {
    let folder = Folder::new();
    let text = std::fs::read_to_string(repository("stdlib/finetune.rhai")).unwrap();
    std::fs::create_dir_all(folder.path("mine")).unwrap();
    folder.write("mine/finetune.rhai", text);
    let line = "finetune::fit((), (), #{ warmpu: 0.1 });";
    let script = format!("import \"std/finetune\" as finetune;\nprint(\"begun\");\n{line}");
    for stdlib in ["mine", "./mine/"] {
        let said = folder.run_with(&script, &["--stdlib", stdlib]);
        said.fails(1).at("recipe.rhai:3:26", line);
        said.says(&["unknown option `warmpu` of finetune::fit; did you mean `warmup`?"]);
        assert_eq!(said.stdout, "", "{said}");
    }
}

#[test]
fn options_that_are_picked_from_a_table_are_checked_before_the_run() {
    let recipe = |table: &str, pick: &str| {
        let text = format!(
            "import \"std/finetune\" as finetune;\nprint(\"begun\");\nlet start = \"a\";\nlet rates = {table};\n\
             finetune::fit((), (), {pick} + #{{ steps: 1 }});"
        );
        Folder::new().run(&text)
    };
    let table = "#{ a: #{ lr: 1e-3 }, b: #{ lr: 1e-3, heda_lr: 1e-2 } }";
    let line = format!("let rates = {table};");
    for pick in ["rates[start]", "rates[\"b\"]", "rates.b"] {
        let said = recipe(table, pick);
        said.fails(1).at("recipe.rhai:4:50", &line);
        said.says(&["unknown option `heda_lr` of finetune::fit; did you mean `head_lr`?"]);
        assert_eq!(said.stdout, "", "{said}");
    }
    // Another one is meant, or the table holds other things too.
    for (table, pick) in [(table, "rates.a"), ("#{ a: #{ lr: 1e-3 }, names: [], c: #{ x: 1 } }", "rates[start]")] {
        let said = recipe(table, pick);
        assert!(said.stdout == "begun\n" && !said.stderr.contains("unknown option"), "{said}");
    }
}

#[test]
fn all_unknown_options_of_a_call_are_told_at_once() {
    run("nn::blocks(#{ hidden_sise: 8, speed: 1, qkv_bais: true, image_size: 8 });").fails(1).says(&[
        "unknown options of nn::blocks: `hidden_sise` (did you mean `hidden_size`?), \
         `qkv_bais` (did you mean `qkv_bias`?), \
         `speed`",
    ]);
}

/// A script function with declared options, and a call of it on the last line.
fn with_declared_options(given: &str) -> Said {
    run(&format!(
        "fn fit_options() {{[\n    \
             option(\"epochs\", 10, \"passes over the images\"),\n    \
             option(\"lr\", 1e-3, \"peak learning rate\").changeable(),\n    \
             option(\"dtype\", \"float32\", [\"float32\", \"bfloat16\"], \"what products are computed in\"),\n    \
             option(\"clip\", (), \"float or ()\", \"limit of the gradient's norm\"),\n\
         ]}}\n\
         fn fit(given) {{ options(\"fit\", given, fit_options()) }}\n\
         print(changeable(fit_options()));\n\
         print(fit(#{{ {given} }}));"
    ))
}

#[test]
fn options_of_a_script_function_are_blamed_on_its_caller() {
    let blames = |given: &str, pieces: &[&str]| {
        with_declared_options(given).blames("recipe.rhai:9:14", &format!("print(fit(#{{ {given} }}));"), pieces);
    };
    blames(
        "epocs: 3",
        &["unknown option `epocs` of fit; did you mean `epochs`?", "the options are: epochs, lr, dtype, clip"],
    );
    blames("epocs: 3, speed: 1", &["unknown options of fit: `epocs` (did you mean `epochs`?), `speed`"]);
    blames("lr: \"fast\"", &["option `lr` of fit: expected a number, found the string \"fast\""]);
    blames("dtype: \"bfloat\"", &["option `dtype` of fit: unknown value \"bfloat\"; did you mean `bfloat16`?"]);
    blames("clip: true", &["option `clip` of fit: expected a number or (), found true"]);
    with_declared_options("epochs: 3, lr: 1, clip: 1")
        .succeeds()
        .prints(&["[\"lr\"]", "#{\"clip\": 1.0, \"dtype\": \"float32\", \"epochs\": 3, \"lr\": 1.0}"]);
}

#[test]
fn a_declaration_that_contradicts_itself_is_told() {
    for (declaration, pieces) in [
        (
            "option(\"lr\", 0.1, \"flaot\", \"\");",
            &["the type of `lr`", "unknown type \"flaot\"; did you mean `float`?"][..],
        ),
        (
            "option(\"lr\", \"fast\", \"float\", \"\");",
            &["the default of `lr`", "expected a number, found the string \"fast\""],
        ),
        ("option(\"mode\", \"c\", [\"a\", \"b\"], \"\");", &["the default of `mode`", "(one of: a, b)"]),
    ] {
        run(declaration).blames("recipe.rhai:1:1", declaration, pieces);
    }
    run("options(\"fit\", #{}, [option(\"images\", (), \"Source\", \"what to learn from\")]);")
        .fails(1)
        .says(&["the option `images` of fit must be given: a source"]);
}

// ---- names ----

#[test]
fn a_function_that_does_not_exist_is_told_with_the_nearest_one() {
    run("let x = 1;\nnn::linera(2, 3);").blames(
        "recipe.rhai:2:5",
        "nn::linera(2, 3);",
        &["unknown function `nn::linera`; did you mean `linear`?"],
    );
    run("let t = zeros([2]);\nt.smu();").blames("recipe.rhai:2:3", "t.smu();", &["`smu`", "did you mean `sum`?"]);
    run("prnt(1);").blames("recipe.rhai:1:1", "prnt(1);", &["`prnt`", "did you mean `print`?"]);
    run("fn train_step() {}\ntrain_stp();").blames("recipe.rhai:2:1", "train_stp();", &["did you mean `train_step`?"]);
}

#[test]
fn a_function_without_its_namespace_is_told_where_it_is() {
    let line = "class_token(8);";
    run(line).blames("recipe.rhai:1:1", line, &["unknown function `class_token`", "nn::class_token"]);
}

#[test]
fn a_namespace_that_does_not_exist_is_told_with_the_nearest_one() {
    run("optin::cosine(#{});").blames("recipe.rhai:1:1", "optin::cosine(#{});", &["`optin`", "did you mean `optim`?"]);
}

#[test]
fn a_function_on_the_last_line_is_missed_before_the_first_runs() {
    let said = run("print(\"started\");\nno_such_function();");
    said.fails(1).says(&["no_such_function"]);
    assert!(!said.stdout.contains("started"), "{said}");
}

#[test]
fn arguments_of_the_wrong_type_or_number_are_told_with_the_signature() {
    run("nn::linear(\"a\", 3);").blames(
        "recipe.rhai:1:5",
        "nn::linear(\"a\", 3);",
        &["no `nn::linear` takes (string, int)", "nn::linear(inputs: int, outputs: int)"],
    );
    run("nn::linear(3);").blames(
        "recipe.rhai:1:5",
        "nn::linear(3);",
        &["`nn::linear`", "1 argument", "nn::linear(inputs: int, outputs: int)"],
    );
    let closure = "let f = |x| x + 1;\nf.call(1, 2);";
    run(closure).blames("recipe.rhai:2:3", "f.call(1, 2);", &["closure", "2 arguments"]);
    let helper = "fn helper(a, b) { a + b }\nhelper(1);";
    run(helper).blames("recipe.rhai:2:1", "helper(1);", &["`helper`", "2 arguments", "1"]);
}

#[test]
fn a_variable_that_does_not_exist_is_told_with_the_nearest_one() {
    run("let learning_rate = 1;\nprint(learning_rat);").blames(
        "recipe.rhai:2:7",
        "print(learning_rat);",
        &["unknown variable `learning_rat`; did you mean `learning_rate`?"],
    );
}

#[test]
fn a_function_that_uses_an_outer_variable_is_told_how_to_pass_it() {
    run("let lr = 1;\nfn f() {\n    lr\n}\nf();").blames(
        "recipe.rhai:3:5",
        "    lr",
        &["unknown variable `lr`", "closure"],
    );
}

#[test]
fn a_property_that_does_not_exist_is_told_with_the_nearest_one() {
    run("let t = zeros([2]);\nt.shap;").blames("recipe.rhai:2:3", "t.shap;", &["Tensor", "`shap`", "`shape`"]);
    run("let m = #{ a: 1 };\nprint(m.b);").blames("recipe.rhai:2:9", "print(m.b);", &["`b`"]);
}

// ---- imports ----

#[test]
fn an_import_that_leads_nowhere_is_told_with_the_nearest_module() {
    run("import \"std/pretrian\" as p;").blames(
        "recipe.rhai:1:1",
        "import \"std/pretrian\" as p;",
        &["cannot find the module `std/pretrian`", "std/pretrain"],
    );
    run("import \"helpers/missing\" as m;").blames(
        "recipe.rhai:1:1",
        "import \"helpers/missing\" as m;",
        &["cannot find the module `helpers/missing`", "relative"],
    );
}

#[test]
fn an_import_is_told_with_the_nearest_script_beside_it() {
    let folder = Folder::new();
    folder.write("helper.rhai", "fn double(x) { 2 * x }");
    folder.write("lib/shapes.rhai", "fn f() { 1 }");
    folder.run("import \"helpr\" as h;").fails(1).says(&["did you mean `helper`?"]);
    folder.run("import \"lib/shape\" as s;").fails(1).says(&["did you mean `lib/shapes`?"]);
}

#[test]
fn a_function_that_an_import_lacks_is_told_with_the_nearest_one() {
    let folder = Folder::new();
    folder.write("helper.rhai", "fn double(x) { 2 * x }");
    folder.run("import \"helper\" as h;\nprint(h::duoble(2));").blames(
        "recipe.rhai:2:10",
        "print(h::duoble(2));",
        &["unknown function `h::duoble`; did you mean `double`?"],
    );
}

#[test]
fn an_error_in_an_imported_script_shows_that_script_and_who_called() {
    let folder = Folder::new();
    folder.write("lib/shapes.rhai", "// Helper.\nfn add(x) {\n    x + ones([3])\n}\n");
    let said = folder.run("import \"lib/shapes\" as s;\nfn step(x) {\n    s::add(x)\n}\nlet y = step(ones([2]));");
    said.blames("lib/shapes.rhai:3:7", "    x + ones([3])", &["2", "3"]);
    said.says(&["in `add`, from recipe.rhai:3:8", "in `step`, from recipe.rhai:5:9"]);
    let (inner, outer) = (said.stderr.find("in `add`"), said.stderr.find("in `step`"));
    assert!(inner < outer, "the innermost call comes first: {said}");
}

#[test]
fn a_syntax_error_in_an_imported_script_shows_that_script() {
    let folder = Folder::new();
    folder.write("broken.rhai", "fn f() {}\nlet = 3;\n");
    let said = folder.run("import \"broken\" as b;");
    said.blames("broken.rhai:2:5", "let = 3;", &["syntax error", "import broken, from recipe.rhai:1:1"]);
}

#[test]
fn an_unknown_function_inside_an_imported_script_shows_that_script() {
    let folder = Folder::new();
    folder.write("inner.rhai", "fn f(x) {\n    x.smu()\n}\n");
    folder.run("import \"inner\" as i;\ni::f(ones([2]));").blames("inner.rhai:2:7", "    x.smu()", &["`sum`"]);
}

#[test]
fn an_error_in_the_standard_library_shows_its_source() {
    let folder = Folder::new();
    folder.write("mylib/pretrain.rhai", "/// Fails.\nfn fit() {\n    throw \"on purpose\";\n}\n");
    folder.run_with("import \"std/pretrain\" as p;\np::fit();", &["--stdlib", "mylib"]).blames(
        "mylib/pretrain.rhai:3:5",
        "    throw \"on purpose\";",
        &["on purpose", "in `fit`, from recipe.rhai:2:4"],
    );
}

#[test]
fn a_circle_of_imports_is_told() {
    let folder = Folder::new();
    folder.write("a.rhai", "import \"b\" as b;\nfn f() { 1 }");
    folder.write("b.rhai", "import \"a\" as a;\nfn g() { 2 }");
    folder.run("import \"a\" as a;\na::f();").fails(1).says(&["circular import", "a.rhai", "b.rhai"]);
}

// ---- syntax and values ----

#[test]
fn a_syntax_error_is_told_at_its_place() {
    run("let x = 3\nlet y = 4;").blames("recipe.rhai:1:10", "let x = 3", &["syntax error", "semicolon"]);
    run("print(\"ä\"); let = 1;").blames("recipe.rhai:1:17", "print(\"ä\"); let = 1;", &["syntax error"]);
    run("\tlet = 1;").blames("recipe.rhai:1:6", "\tlet = 1;", &["syntax error"]);
}

#[test]
fn errors_of_the_language_are_told_at_their_place() {
    run("let a = [1, 2];\nprint(a[5]);").blames("recipe.rhai:2:9", "print(a[5]);", &["5", "2 elements"]);
    run("let x = 1 / 0;").blames("recipe.rhai:1:11", "let x = 1 / 0;", &["zero"]);
    run("let x = 9223372036854775807 + 1;").fails(1).says(&["recipe.rhai:1:29", "overflow"]);
    run("throw \"mine\";").blames("recipe.rhai:1:1", "throw \"mine\";", &["error: mine"]);
    run("let x = \"a\" - 1;").blames("recipe.rhai:1:13", "let x = \"a\" - 1;", &["string", "int"]);
    run("fn down(n) { down(n + 1) }\ndown(0);").fails(1).says(&["recipe.rhai:", "overflow"]);
}

#[test]
fn a_caught_error_gives_message_and_hint() {
    let said = run("try { checkpoint::load(\"nowhere\"); } catch (e) { print(e.message); print(e.hint); }");
    said.succeeds().prints(&["nowhere does not exist", "model folder"]);
}

#[test]
fn a_required_parameter_that_is_not_given_is_told_at_its_line() {
    run("let d = param(\"dir\", ());").blames(
        "recipe.rhai:1:9",
        "let d = param(\"dir\", ());",
        &["parameter `dir`", "--set dir="],
    );
}

// ---- tensors ----

#[test]
fn a_wrong_shape_deep_in_a_model_is_told_with_where_and_both_shapes() {
    let line = "b.forward(zeros([1, 5, 9]));";
    run(&format!("let b = nn::blocks({TINY});\n{line}")).blames(
        "recipe.rhai:2:3",
        line,
        &["layer 0", "[B, N, 8]", "[1, 5, 9] float32"],
    );
    let line = "m.forward(zeros([1, 5, 8]));";
    run(&format!("let m = nn::sequential([nn::linear(8, 4), nn::linear(8, 4)]);\n{line}")).blames(
        "recipe.rhai:2:3",
        line,
        &["sequential, module 1", "linear(8 -> 4)", "[1, 5, 4] float32"],
    );
    let line = "m.encode(zeros([2, 1, 8, 8]));";
    run(&format!("let m = nn::vit_nepa({TINY});\n{line}")).blames(
        "recipe.rhai:2:3",
        line,
        &["embeddings", "[B, 3, 8, 8]", "[2, 1, 8, 8] float32"],
    );
}

#[test]
fn tokens_on_no_square_grid_are_told() {
    let line = "b.forward(zeros([1, 7, 8]));";
    run(&format!("let b = nn::blocks({TINY});\n{line}")).blames("recipe.rhai:2:3", line, &["grid", "[1, 7, 8]"]);
}

#[test]
fn rotary_angles_that_do_not_fit_are_told() {
    for angles in ["zeros([2, 9, 4])", "zeros([2, 4, 8])", "zeros([3])", "zeros([1, 4, 4])", "zeros([2, 4])"] {
        let line = format!("a.forward(zeros([1, 5, 8]), {angles});");
        run(&format!("let a = nn::attention({TINY});\n{line}")).blames("recipe.rhai:2:3", &line, &["rotary"]);
    }
}

#[test]
fn images_of_too_few_dimensions_are_told() {
    for shape in ["[]", "[2]", "[2, 3]", "[3, 8, 8]"] {
        let line = format!("m.encode(zeros({shape}));");
        run(&format!("let m = nn::vit_nepa({TINY});\n{line}")).blames("recipe.rhai:2:3", &line, &["[B, 3, 8, 8]"]);
    }
}

/// Every module meets tensors of every rank and some odd sizes: a complaint or a result, no panic.
#[test]
fn no_module_panics_at_any_shape() {
    let script = format!(
        r#"
        let c = {TINY};
        let modules = [nn::vit_nepa(c), nn::patch_embed(c), nn::class_token(8), nn::attention(c), nn::mlp(c),
            nn::layer_scale(8, 0.1), nn::drop_path(0.5), nn::block(c), nn::blocks(c), nn::layer_norm(8),
            nn::linear(8, 8), nn::conv2d(3, 8, #{{}}), nn::sequential([nn::linear(8, 8)]),
            nn::classifier(c + #{{ num_labels: 2 }}), nn::vit_nepa(c + #{{ num_labels: 2 }})];
        let shapes = [[], [0], [8], [2, 8], [0, 8], [1, 0, 8], [0, 5, 8], [1, 1, 8], [1, 5, 8], [3, 8, 8],
            [1, 3, 8, 8], [0, 3, 8, 8], [1, 3, 0, 0], [1, 3, 9, 9], [1, 3, 8, 8, 1]];
        let done = 0;
        for m in modules {{
            for shape in shapes {{
                try {{ m.forward(zeros(shape)); }} catch (e) {{ }}
                try {{ m.forward(zeros(shape).to("int64")); }} catch (e) {{ }}
                try {{ m.forward(zeros(shape), zeros(shape)); }} catch (e) {{ }}
                try {{ m.encode(zeros(shape)); }} catch (e) {{ }}
                done += 1;
            }}
        }}
        print(done);
        "#
    );
    assert_eq!(run(&script).values(), [15 * 15]);
}

/// The same for the methods of tensors and the losses.
#[test]
fn no_tensor_function_panics_at_odd_arguments() {
    let calls = [
        "t.shape",
        "t.size(0)",
        "t.size(-9)",
        "t.item()",
        "t.to_array()",
        "t.to_string()",
        "t[0]",
        "t[-1]",
        "t[9]",
        "t[0..9]",
        "t[3..1]",
        "t[(-9)..2]",
        "t[[0, 0, 0, 0]]",
        "t[[(), 9]]",
        "t[[\"a\"]]",
        "t[arange(3)]",
        "t[t > 0]",
        "t.sum(7)",
        "t.sum([0, 0])",
        "t.sum(\"a\")",
        "t.mean(-9)",
        "t.max()",
        "t.max(3)",
        "t.min()",
        "t.argmax(0)",
        "t.argmax(5)",
        "t.topk(99)",
        "t.cumsum(4)",
        "t.bincount(9)",
        "arange(9).bincount(3)",
        "arange(3).bincount(-1)",
        "arange(3).bincount(3, t)",
        "t.reshape([-1, -1])",
        "t.reshape([7])",
        "t.reshape([\"a\"])",
        "t.permute([0, 0])",
        "t.transpose(0, 9)",
        "t.flatten(3, 1)",
        "t.unsqueeze(9)",
        "t.squeeze(9)",
        "t.expand([3])",
        "t.repeat([-1])",
        "t.slice(5, 0, 1)",
        "t.select(0, 99)",
        "t.flip(9)",
        "t.chunk(0, 0)",
        "t.gather(0, arange(2))",
        "t.one_hot(2)",
        "t.one_hot(0)",
        "t.tril(0)",
        "t.masked_fill(t, 1)",
        "t.to(\"floaty\")",
        "t.to(\"int64\")",
        "t.to(\"cuda:x\")",
        "t.softmax(9)",
        "t.layer_norm([9])",
        "t.normalize()",
        "t.conv2d(t, 0, 0)",
        "t.conv2d(t, 1, -1)",
        "t.interpolate([0, 0])",
        "t.interpolate([4])",
        "t.avg_pool2d(0)",
        "t.scaled_dot_product_attention(t, t, #{ is_causal: true })",
        "t.backward()",
        "t.grad",
        "t.requires_grad(true)",
        "t.copy_(ones([7]))",
        "t.index_copy_(0, arange(9), t)",
        "t.index_copy_(5, arange(1), t)",
        "t.matmul(t)",
        "t.pow(\"a\")",
        "t.clamp(1, ())",
        "t & t",
        "t + ones([11])",
        "!t",
        "t / 0",
        "cat([t, 1], 0)",
        "cat([], 0)",
        "stack([t, ones([11])], 0)",
        "where(t, t, t)",
        "tensor([[1], 2])",
        "tensor([[1], [2, 3]])",
        "tensor(\"a\")",
        "tensor([])",
        "zeros([-1])",
        "zeros([\"a\"])",
        "full([2], \"a\")",
        "arange(-3)",
        "linspace(0, 1, -1)",
        "eye(-1)",
        "randn([-1])",
        "randint(3, 3, [1])",
        "randperm(-1)",
        "loss::cross_entropy(t, t)",
        "loss::cross_entropy(t, arange(2))",
        "loss::cross_entropy(ones([2, 3]), tensor([0, 3]))",
        "loss::cross_entropy(ones([2, 3]), tensor([-1, 0]))",
        "loss::cross_entropy(ones([0, 3]), zeros([0]).to(\"int64\"))",
        "loss::next_embedding(t, t)",
        "loss::next_embedding(ones([1, 1, 2]), ones([1, 1, 2]))",
        "loss::next_embedding_intermediate([t], t)",
        "loss::next_embedding_intermediate([1], t)",
        "mean_std([])",
        "mean_std([\"a\"])",
        "table([1])",
        "fixed(1.0, -5)",
        "fixed(1.0, 999)",
        "scientific(1.0, -1)",
        "seed(-1)",
        "optim::adamw(nn::drop_path(0.5), #{})",
        "nn::linear(2, 2).freeze(\"wieght\")",
        "optim::ema(nn::linear(2, 2), 0.9).state_dict()",
        "optim::adamw(nn::linear(2, 2), #{}).step(0.1)",
        "optim::adamw(nn::linear(2, 2), #{}, |n, t| 3)",
        "optim::clip_grad_norm(nn::linear(2, 2), 0)",
        "optim::cosine(#{ total_steps: 5 }).at(-3)",
        "nn::sequential([1])",
        "nn::blocks(#{}, [2])",
        "nn::vit_nepa(#{}, #{ encoder: 1 })",
        "nn::define(#{ training: 1 }, |m, x| x)",
        "nn::define(#{ w: arange(3) }, |m, x| x)",
        "nn::define(#{}, |m| m).forward(t)",
        "nn::linear(2, 2).config",
        "nn::linear(2, 2).encode(t)",
        "nn::linear(2, 2).load_state_dict(#{ weight: 1 })",
        "nn::rotary_embedding(#{}).angles(0, 2)",
        "run::path(\"../x\")",
        "run::path(\"/etc/x\")",
        "read_json(\"nowhere.json\")",
        "run::log(#{ a: t })",
        "run::progress(\"x\", -3)",
        "plot::lines(\"x.png\", #{ a: [] }, #{})",
        "plot::lines(\"x.png\", #{ a: [[1]] }, #{})",
        "plot::bars(\"x.png\", [[1]], #{})",
        "plot::bars(\"x.png\", [], #{})",
        "plot::images(\"x.png\", t, #{})",
        "plot::images(\"x.png\", zeros([0, 1, 2, 2]), #{})",
        "plot::images(\"x.png\", zeros([1, 1, 2, 2]), #{ columns: 0 })",
    ];
    let tensors =
        ["zeros([])", "zeros([0])", "ones([3])", "ones([2, 3])", "arange(4)", "ones([1, 1, 4, 4])", "zeros([0, 2, 3])"];
    let body: String = calls.iter().map(|c| format!("    try {{ let r = {c}; }} catch (e) {{ }}\n")).collect();
    let script = format!("for t in [{}] {{\n{body}}}\nprint(\"survived\");", tensors.join(", "));
    run(&script).succeeds().prints(&["survived"]);
}

#[test]
fn libtorch_complaints_come_with_shapes_and_dtypes_of_what_was_given() {
    run("let y = ones([2, 4]) + ones([3]);").blames(
        "recipe.rhai:1:22",
        "let y = ones([2, 4]) + ones([3]);",
        &["[2, 4] float32", "[3] float32"],
    );
    run("let y = ones([2, 4]).matmul(ones([3, 5]));").blames(
        "recipe.rhai:1:22",
        "let y = ones([2, 4]).matmul(ones([3, 5]));",
        &["[2, 4] float32", "[3, 5] float32"],
    );
    run("nn::linear(2, 3).forward(tensor([[1, 2]]));").blames(
        "recipe.rhai:1:18",
        "nn::linear(2, 3).forward(tensor([[1, 2]]));",
        &["linear(2 -> 3)", "floats", "[1, 2] int64"],
    );
}

#[test]
fn losses_tell_what_they_expected_and_found() {
    // A GPU does not look at labels: each step would wait for that.
    Folder::on_cpu().run("loss::cross_entropy(ones([4, 3]), tensor([0, 1, 2, 3]));").fails(1).says(&[
        "0..=3",
        "3 classes",
        "recipe.rhai:1:7",
    ]);
    run("loss::cross_entropy(ones([4, 3]), ones([4]));").fails(1).says(&["int64 labels [4]", "[4, 3]", "[4] float32"]);
    run("loss::next_embedding(ones([1, 4, 3]), ones([1, 5, 3]));").fails(1).says(&["[1, 4, 3]", "[1, 5, 3]"]);
}

#[test]
fn backward_from_something_without_a_graph_is_told() {
    run("ones([1]).backward();").blames(
        "recipe.rhai:1:11",
        "ones([1]).backward();",
        &["requires gradients", "no_grad"],
    );
    let script = "let m = nn::linear(2, 2);\nm.forward(ones([3, 2])).backward();";
    run(script).blames("recipe.rhai:2:25", "m.forward(ones([3, 2])).backward();", &["scalar", "[3, 2]"]);
}

#[test]
fn a_tensor_that_fits_no_memory_is_told() {
    for call in ["zeros", "ones", "rand", "randn"] {
        let line = format!("let x = {call}([1000000, 1000000, 1000000]);");
        run(&line).blames("recipe.rhai:1:9", &line, &["memory"]);
    }
    let line = "let m = nn::linear(1000000000, 1000000000);";
    run(line).blames("recipe.rhai:1:13", line, &["memory"]);
}

#[test]
fn a_tensor_with_more_elements_than_can_be_counted_is_told() {
    for call in ["zeros", "rand", "randn"] {
        let line = format!("let x = {call}([9223372036854775807, 3]);");
        run(&line).fails(1).at("recipe.rhai:1:9", &line);
    }
}

#[test]
fn recursion_through_a_callback_ends_with_an_error() {
    let folder = Folder::new();
    // It must not eat the machine while it fails.
    let said = folder.run("fn f(n) {\n    no_grad(|| f(n + 1))\n}\nf(0);");
    said.fails(1).says(&["recipe.rhai:2", "overflow"]);
}

#[test]
fn an_error_inside_a_callback_shows_its_line() {
    run("no_grad(|| {\n    ones([2]) + ones([3])\n});").fails(1).at("recipe.rhai:2:15", "    ones([2]) + ones([3])");
    let group = "optim::adamw(nn::linear(2, 2), #{}, |name, t| {\n    name.nothing\n});";
    run(group).fails(1).at("recipe.rhai:2:10", "    name.nothing");
}

#[test]
fn an_average_gives_the_weights_back_when_its_body_fails() {
    let script = r#"
        let m = nn::linear(2, 2);
        let ema = optim::ema(m, 0.5);
        ema.update();
        let before = m.state_dict();
        m.named_parameters()["weight"].copy_(ones([2, 2]));
        try { ema.apply(|| { throw "stop"; }); } catch (e) { print(`"${e}"`); }
        print(m.named_parameters()["weight"].to_array());
    "#;
    let said = run(script);
    said.prints(&["stop", "[1.0, 1.0, 1.0, 1.0]"]).succeeds();
}

// ---- the command line ----

#[test]
fn a_set_of_an_unknown_parameter_is_told_with_the_nearest_one() {
    let said = Folder::new().run_with("let lr = param(\"lr_peak\", 1e-3);\nprint(\"ran\");", &["--set", "lr_paek=1"]);
    said.fails(1).says(&["`lr_paek`", "did you mean `lr_peak`?"]);
    assert!(!said.stdout.contains("ran"), "{said}");
}

/// 3 / rates[1] is 1 of integers, and 1.5 of floats.
#[test]
fn parts_of_arrays_and_maps_keep_the_types_of_the_default() {
    let script = r#"
        let rates = param("rates", [0.5, 1.5]);
        let o = param("o", #{ lr: 0.5, n: 2, deep: #{ f: 1.0, list: [] } });
        let any = param("any", []);
        let mixed = param("mixed", [1, 0.5]);
        print([rates, 3 / rates[1], o, 1 / o.lr, any, mixed]);
    "#;
    let said = Folder::new()
        .run_with(script, &["--set", "rates=[1,2]", "--set", "o={\"lr\": 2, \"deep\": {\"f\": 3, \"list\": [1]}}"]);
    said.succeeds().prints(&[
        "[[1.0, 2.0], 1.5, ",
        "\"lr\": 2.0",
        "\"n\": 2",
        "\"f\": 3.0",
        "\"list\": [1]",
        ", 0.5, [], [1, 0.5]]",
    ]);
    let said = Folder::new().run_with(script, &["--set", "any=[1, \"a\"]", "--set", "mixed=[2, 1]"]);
    said.succeeds().prints(&["[0.5, 1.5], 2.0", "[1, \"a\"], [2, 1]]"]);
}

#[test]
fn a_step_is_an_integer() {
    let folder = Folder::new();
    folder
        .run_with("run::log(#{ step: 3.0, a: 1 }); run::log(#{ step: tensor(4.0), a: 1 });", &["--out", "o"])
        .succeeds();
    let lines = folder.text("o/metrics.jsonl");
    assert!(lines.contains("\"step\":3}") && lines.contains("\"step\":4}"), "{lines}");
    for (step, found) in
        [("\"1\"", "the string \"1\""), ("1.5", "the float 1.5"), ("0.0 / 0.0", "the float NaN"), ("()", "()")]
    {
        let said = run(&format!("run::log(#{{ step: {step} }});"));
        said.fails(1).says(&["run::log: `step`: expected an integer, found ", found, "recipe.rhai:1:6"]);
    }
    let said = run("run::write_table(\"t.csv\", [[\"a\", [1]], [\"a\", [2]]]);");
    said.fails(1).says(&["two columns are called `a`"]);
}

#[test]
fn a_set_of_the_wrong_type_is_told_with_the_default() {
    let script = "let a = param(\"a\", 3); let b = param(\"b\", 0.5); let c = param(\"c\", true); let d = param(\"d\", [1]); let e = param(\"e\", #{});";
    for (set, pieces) in [
        ("a=2.5", &["--set a=2.5", "integer", "3"][..]),
        ("a=", &["--set a=", "integer"]),
        ("b=fast", &["--set b=fast", "number", "0.5"]),
        ("b=NaN", &["--set b=NaN", "number"]),
        ("c=yes", &["--set c=yes", "true or false"]),
        ("d=1", &["--set d=1", "array"]),
        ("e=[1]", &["--set e=[1]", "object"]),
    ] {
        Folder::new().run_with(script, &["--set", set]).fails(1).says(pieces);
    }
    let script = "param(\"rates\", [0.5, 1.5]); param(\"o\", #{ lr: 0.5, deep: #{ names: [\"a\"] } });";
    for (set, pieces) in [
        ("rates=[\"a\"]", &["--set rates[0]: expected a number, found the string \"a\"", "the default is 0.5"][..]),
        ("o={\"lrr\": 1}", &["--set o: unknown key `lrr`; did you mean `lr`?", "the keys are: deep, lr"]),
        ("o={\"deep\": 1}", &["--set o.deep: expected a map, found the integer 1"]),
        ("o={\"deep\": {\"names\": [1]}}", &["--set o.deep.names[0]: expected a string"]),
    ] {
        Folder::new().run_with(script, &["--set", set]).fails(1).says(pieces);
    }
    Folder::new().run_with(script, &["--set", "a"]).fails(2).says(&["KEY=VALUE"]);
}

#[test]
fn a_recipe_that_does_not_exist_is_told_with_the_nearest_file() {
    let folder = Folder::new();
    folder.write("pretrain.rhai", "print(1);");
    folder.nepa(&["run", "pretrian.rhai"]).fails(1).says(&["pretrian.rhai does not exist", "pretrain.rhai?"]);
    folder.nepa(&["check", "pretrian.rhai"]).fails(1).says(&["pretrian.rhai does not exist"]);
    folder.nepa(&["run", "pretrian.rhai", "--help"]).fails(1).says(&["pretrian.rhai does not exist"]);
    folder.nepa(&["run", "nowhere/x.rhai"]).fails(1).says(&["nowhere/x.rhai does not exist"]);
    folder.nepa(&["run", "."]).fails(1).says(&["folder"]);
    folder.write("r1.rhai", "print(1);");
    folder.nepa(&["run", "r1"]).fails(1).says(&["did you mean ./r1.rhai?"]);
    folder.shell("echo 'print(1);' | $nepa run /dev/stdin").finish().fails(1).says(&["a recipe is read from a file"]);
    folder.write("binary.rhai", [0xff, 0xfe, 0x00]);
    folder.nepa(&["run", "binary.rhai"]).fails(1).says(&["binary.rhai", "UTF-8"]);
}

#[test]
fn cuda_without_a_gpu_is_told() {
    let folder = Folder::on_cpu(); // with libtorch as it is
    folder.write("recipe.rhai", "print(device());");
    for device in ["cuda", "cuda:0", "cuda:7"] {
        let said = folder.nepa_with(&[("CUDA_VISIBLE_DEVICES", "")], &["run", "recipe.rhai", "--device", device]);
        said.fails(1).says(&[&format!("device `{device}`"), "hint:"]);
        assert_eq!(said.stdout, "");
    }
    folder.nepa(&["run", "recipe.rhai", "--device", "gpu"]).fails(1).says(&["unknown device `gpu`", "cuda"]);
    folder.nepa(&["run", "recipe.rhai", "--device", "cuda:x"]).fails(1).says(&["unknown device `cuda:x`"]);
}

#[test]
fn a_standard_library_folder_that_does_not_exist_is_told() {
    let folder = Folder::new();
    folder.write("recipe.rhai", "import \"std/pretrain\" as p;");
    folder.nepa(&["check", "recipe.rhai", "--stdlib", "nowhere"]).fails(1).says(&["nowhere"]);
    folder.nepa_with(&[("NEPA_STDLIB", "nowhere")], &["check", "recipe.rhai"]).fails(1).says(&["nowhere"]);
}

#[test]
fn arguments_out_of_range_are_told() {
    let folder = Folder::new();
    folder.write("recipe.rhai", "print(1);");
    folder.nepa(&["run", "recipe.rhai", "--threads", "0"]).fails(2).says(&["--threads"]);
    folder.nepa(&["run", "recipe.rhai", "--seed", "-1"]).fails(2).says(&["-1"]);
    folder.nepa(&["run", "recipe.rhai", "--sett", "a=1"]).fails(2).says(&["--sett", "--set"]);
    folder.nepa(&["rnu", "recipe.rhai"]).fails(2).says(&["rnu"]);
    folder.nepa(&["run"]).fails(2).says(&["recipe"]);
}

#[test]
fn a_captured_variable_used_within_its_own_call_is_explained() {
    // Rhai holds a captured variable for the length of a chain of calls on it.
    let script =
        "let m = nn::linear(2, 2);\nlet names = m.named_parameters().keys().filter(|n| m.num_parameters() > 0);";
    run(script).fails(1).says(&["recipe.rhai:2", "hint:"]);
}

#[test]
fn names_and_parameters_inside_the_arguments_of_methods_are_found_too() {
    let folder = Folder::new();
    let script = "let x = [1, 2, 3];\nprint(x.index_of(param(\"n\", 2)));\nprint(x.contains(sede()));";
    let said = folder.run_with(script, &["--set", "n=3"]);
    said.blames("recipe.rhai:3:18", "print(x.contains(sede()));", &["sede", "`seed`"]);
    let script = script.replace("sede()", "seed()");
    folder.run_with(&script, &["--set", "n=3"]).succeeds().prints(&["2", "false"]);
}

#[test]
fn a_wrong_call_of_a_method_shows_the_methods_of_that_type_alone() {
    let said = run("let opt = optim::adamw(nn::linear(2, 2), #{}); opt.step(1e-3, true);");
    said.fails(1).says(&["no `step` takes (Optimizer, float, bool)", "Optimizer.step(lr: any, check: FiniteCheck)"]);
    assert!(!said.stderr.contains("Progress.step"), "{said}");
}
