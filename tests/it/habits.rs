//! What people who know Python type by habit gets an answer that helps, at the right place; and `nepa check` finds what
//! would go wrong without a word.

use crate::common::*;

/// Checks a script; what was said, ended with exit code 1.
#[track_caller]
fn refused(script: &str) -> Said {
    let folder = Folder::new();
    folder.write("recipe.rhai", script);
    let said = folder.nepa(&["check", "recipe.rhai"]);
    said.fails(1);
    said
}

#[test]
fn pythons_words_are_translated() {
    let cases = [
        (
            "let f = |x| x;\nprint(f(3));",
            "2:7",
            "`f` is a variable: a closure is called as f.call(3), a module as f.forward(3)",
        ),
        ("fn apply(g) { g(1, [2, (3)]) }", "1:15", "called as g.call(1, [2, (3)])"),
        ("let x = ones([4]);\nx.view(2, 2);", "2:3", "use x.reshape([2, -1])"),
        ("let x = ones([4]);\nprint(x.shape());", "2:9", "without parentheses: .shape"),
        ("for i in range(3) { }", "1:10", "a range of integers is 0..3"),
        ("let x = None;", "1:9", "None is written ()"),
        ("let x = True;", "1:9", "it is written true"),
        ("let best = -inf;", "1:13", "infinity is 1.0 / 0.0"),
        ("let best = nan;", "1:12", "NaN is 0.0 / 0.0"),
        ("let m = { \"a\": 1 };", "1:14", "a map is written #{ a: 1 }"),
        ("let m = {\n  \"a\": 1,\n  \"b\": 2 };", "2:6", "a map is written #{ a: 1 }"),
        ("let x = ones([2, 3]);\nx.sum(dim=1);", "2:7", "there are no keyword arguments"),
        ("let x = ones([2, 3]);\nx.sum(0, keepdim = true);", "2:10", "there are no keyword arguments"),
        ("let x = try { 1 } catch { 2 };", "1:9", "try is a statement"),
        ("x = 3;", "1:1", "declare it: let x = 3;"),
        ("if true and false { }", "1:9", "write && instead of `and`"),
        ("if not true { }", "1:4", "it is written !"),
        ("let s = 'text';", "1:9", "double quotes"),
        ("# comment\nlet x = 1;", "1:1", "a comment starts with //"),
        ("let x = 1 if true else 2;", "1:11", "if condition { a } else { b }"),
        ("while true: pass", "1:11", "a block stands in braces"),
        ("print(f\"{1}\");", "1:7", "in backticks"),
        ("let t = (1, 2);", "1:11", "a list of values is an array"),
        ("let x = 1;\nx++;", "2:2", "it is written x += 1"),
        ("let x = .5;", "1:9", "a number starts with a digit"),
        ("let x: int = 3;", "1:6", "types are not declared"),
        ("def f(x):\n    return x", "1:1", "fn name(x)"),
        ("let f = lambda x: x;", "1:9", "a closure is written"),
        ("import torch", "1:8", "need no import"),
        ("let x = ones([2]);\nx.cuda();", "2:3", "--device"),
        ("let m = nn::linear(2, 2);\nm.eval();", "2:3", "m.train(false)"),
        ("let m = nn::linear(2, 2);\nlet y = m(ones([2]));", "2:9", "a module as m.forward(ones([2]))"),
        ("print(\"loss\", 3);", "1:1", "print(`loss ${x}`)"),
        ("data::DataLoader([]);", "1:7", "data::loader"),
        ("transform::Compose([]);", "1:12", "transforms are a list"),
        ("transform::Lambda(|x| x);", "1:12", "a function of the batch is a transform itself"),
        ("transform::RandomApply([]);", "1:12", "a probability of their own"),
        ("transform::TrivialAugmentWide();", "1:12", "transform::rand_augment"),
        ("let x = ones([2, 2]);\nx.numpy();", "2:3", "x.to_array()"),
        ("let x = str(3);", "1:9", "`${x}`"),
        ("for (i, x) in enumerate([1]) { }", "1:15", "for (x, i) in list"),
    ];
    for (script, place, hint) in cases {
        let said = refused(script);
        said.says(&[&format!("--> recipe.rhai:{place}\n"), "\nhint: "]);
        let shown = said.stderr.lines().find(|line| line.starts_with("hint: ")).unwrap();
        assert!(shown.contains(hint), "{script}: {said}");
    }
}

#[test]
fn a_missing_semicolon_or_comma_is_told_where_it_is_missing() {
    let cases = [
        ("let x = 1\nlet y = 2;", "1:10", "let x = 1"),
        ("let x = 1   // one\n\n// two\nprint(x);", "1:10", "let x = 1   // one"),
        ("print(1)\nprint(2);", "1:9", "print(1)"),
        ("let o = #{\n    a: 1\n    b: 2 };", "2:9", "    a: 1"),
        ("let o = [\n    1\n    2];", "2:6", "    1"),
    ];
    for (script, place, line) in cases {
        let said = refused(script);
        said.at(&format!("recipe.rhai:{place}"), line).says(&["is missing here"]);
    }
}

#[test]
fn parameters_given_like_options_are_shown_with_set() {
    let folder = Folder::new();
    folder.write("r.rhai", "let lr = param(\"lr\", 1e-3, \"peak\"); let epochs = param(\"epochs\", 2, \"n\");");
    folder.nepa(&["run", "r.rhai", "--set", "=3"]).fails(2).says(&["write --set KEY=3"]);
    folder
        .nepa(&["run", "r.rhai", "--seed", "-1"])
        .fails(2)
        .says(&["--seed -1: expected a number that is not negative"]);
    folder.nepa(&["run", "r.rhai", "--seed", "18446744073709551615"]).fails(2).says(&["--seed"]);
    let cases: [(&[&str], &str); 8] = [
        (&["--lr", "1e-3"], "--set lr=1e-3"),
        (&["--lr=1e-3"], "--set lr=1e-3"),
        (&["lr=1e-3"], "--set lr=1e-3"),
        (&["--set", "epochs", "3"], "--set epochs=3"),
        (&["--set", "lr", "=", "3"], "--set lr=3"),
        (&["lr", "3"], "--set lr=3"),
        (&["--set", "epochs"], "--set epochs=VALUE"),
        (&["--epochs"], "--set epochs=VALUE"),
    ];
    for (arguments, hint) in cases {
        let all: Vec<&str> = ["run", "r.rhai"].iter().chain(arguments).copied().collect();
        let said = folder.nepa(&all);
        said.fails(2).says(&["hint: ", hint]);
        assert!(said.stderr.contains("nepa run r.rhai --help lists"), "{said}");
    }
    folder.write("s.rhai", "let seeds = param(\"seeds\", 3, \"n\"); let batch_size = param(\"batch_size\", 3, \"n\");");
    folder.nepa(&["run", "s.rhai", "--seeds", "3"]).fails(2).says(&["--set seeds=3;"]);
    folder.nepa(&["run", "s.rhai", "--batch-size", "3"]).fails(2).says(&["--set batch_size=3;"]);
    folder.nepa(&["run", "s.rhai", "--batchsize=3"]).fails(2).says(&["--set batch_size=3;"]);
    folder.nepa(&["run", "r.rhai", "--sett", "lr=1"]).fails(2).says(&["'--set'"]);
}

#[test]
fn unknown_options_are_found_before_the_run_in_the_words_of_the_run() {
    let config = "image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 1, \
                  num_attention_heads: 2, intermediate_size: 8";
    let cases = [
        (format!("nn::vit_nepa(#{{ {config}, hidden_dim: 8 }});"), "unknown option `hidden_dim` of nn::vit_nepa"),
        (
            format!("let c = #{{ {config}, hidden_dim: 8 }};\nnn::vit_nepa(c);"),
            "unknown option `hidden_dim` of nn::vit_nepa",
        ),
        (
            format!("nn::vit_nepa(#{{ {config} }} + #{{ hidden_dim: 8 }});"),
            "unknown option `hidden_dim` of nn::vit_nepa",
        ),
        ("optim::adamw(nn::linear(2, 2), #{ wd: 0.1 });".into(), "unknown option `wd` of optim::adamw"),
        (
            format!("import \"std/pretrain\" as pre;\npre::fit(nn::vit_nepa(#{{ {config} }}), (), #{{ epoch: 3 }});"),
            "unknown option `epoch` of pretrain::fit; did you mean `epochs`?",
        ),
        (
            format!("import \"std/finetune\" as f;\nf::fit(nn::vit_nepa(#{{ {config} }}), (), #{{ epoch: 3 }});"),
            "unknown option `epoch` of finetune::fit; did you mean `epochs`?",
        ),
        (
            format!("import \"std/finetune\" as f;\nf::fit(nn::vit_nepa(#{{ {config} }}), (), #{{ clip_grad: 3 }});"),
            "unknown option `clip_grad` of finetune::fit; did you mean `clip_grad_norm`?",
        ),
    ];
    for (script, message) in cases {
        refused(&script).says(&[message, "the options are: "]);
        // The run's own words: the same call where the keys are not written out.
        let (head, key) = script.rsplit_once("#{").unwrap();
        let hidden = format!("let made = || #{{{}", key.replacen("});", "};", 1));
        let (first, call) = head.rsplit_once('\n').map_or(("", head), |(first, call)| (first, call));
        if !script.contains("let c = ") {
            let script = format!("{first}\n{hidden}\n{call}made.call());");
            run(&script).fails(1).says(&[message]);
        }
    }
    let fine = format!("let c = #{{ {config} }};\nc.hidden_dim = 8;\nc.remove(\"hidden_dim\");\nnn::vit_nepa(c);");
    run(&fine).succeeds();
}

#[test]
fn a_division_of_integers_that_meets_a_float_is_pointed_out() {
    let warned = [
        ("print(1 / 256 * 1e-3);", "1:9", "gives 0"),
        ("print(1e-3 * (3 / 2));", "1:17", "gives 1"),
        ("let batch = 384;\nprint(batch / 256 * 3e-4);", "2:13", "gives 1"),
        ("let batch = param(\"batch\", 384, \"images\");\nprint(batch / 256 * 3e-4);", "2:13", "drops its remainder"),
        ("let scale = 1 / 256;\nprint(scale * 1e-3);", "1:15", "gives 0"),
        ("let x = 2.0;\nprint(x + 7 / 2);", "2:13", "gives 3"),
        ("let lr = 3e-4;\nlr *= 64 / 256;", "2:10", "gives 0"),
        ("let lr = param(\"lr\", 1 / 256, \"rate\");\nprint(lr * 1e-3);", "1:24", "gives 0"),
        ("let x = ones([2]);\nprint((x * (1 / 3)).shape);", "2:15", "gives 0"),
        ("loss::cross_entropy(ones([2, 3]), arange(2), #{ label_smoothing: 1 / 10 });", "1:68", "gives 0"),
        ("let o = #{ label_smoothing: 1 / 10 };\nloss::cross_entropy(ones([2, 3]), arange(2), o);", "1:31", "gives 0"),
        ("let warmup = param(\"warmup\", 10, \"n\");\nfor i in 0..3 { let lr = i / warmup * 1e-3; }", "2:28", "drops"),
        ("for i in 0..3 { print(1e-3 * (i / 10)); }", "1:33", "drops"),
        ("for (x, i) in [0.5] { print(x * (i / 10)); print(1.0 - i / 3); }", "1:58", "drops"),
        ("let i = 1; while i < 3 { i = i + 1; print(i / 10 * 0.1); }", "1:45", "drops"),
        ("let t = arange(9); let n = (t < 7).sum().item();\nprint(n / t.numel * 100.0);", "2:9", "drops"),
        ("let t = arange(9); let n = 0; n += (t < 7).sum().item();\nprint(100.0 * (n / t.size(0)));", "2:18", "drops"),
        ("let t = ones([2, 3]); print(1 / t.shape[1] * 1.0);", "1:31", "drops"),
        ("let list = [1, 2];\nprint(1 / list.len() * 1.0);", "2:9", "drops"),
        ("let lr = 1e-3;\nlr = 1 / 10;", "2:8", "gives 0"),
        ("let accuracy = 0.4;\nif accuracy < 1 / 2 { }", "2:17", "gives 0"),
    ];
    for (script, place, what) in warned {
        let said = run(script);
        said.succeeds().says(&[
            "warning: this division of integers",
            what,
            &format!("--> recipe.rhai:{place}\n"),
            "1.0 / 256",
        ]);
    }
    let fine = [
        "print(1.0 / 256 * 1e-3);",
        "print(1e-3 / 256);",
        "print(512 / 256 * 1e-3);",
        "print(3e-4 * 384 / 256);",
        "print(7 / 2);",
        "let n = 7 / 2; print(n * 2);",
        "let n = 64; n *= 64 / 256; let list = [1, 2, 3]; print(list[list.len() / 2] + n);",
        "optim::cosine(#{ total_steps: 70 / 8 });",
        "let x = 1; x = 2.0; print(x / 256 * 1e-3);",
        "let k = 7; let pad = k / 2; for i in 0..k { print(i - pad); print(i % (30 / 7)); print(i < k / 2); }",
        "let steps = [1, 2]; print(5 / 2 + steps.len()); print(steps.len - 7 / 2);",
        "print(tensor([1, 2, 3]) + 7 / 2);",
        "let x = arange(3).argmax(0); print((x + 7 / 2).item()); print(x.item() - 7 / 2);",
        "for i in 0..3 { let share = i.to_float() / 10; print(share * 2.0); }",
    ];
    for script in fine {
        let said = run(script);
        said.succeeds();
        assert!(!said.stderr.contains("warning"), "{script}: {said}");
    }
}

/// What runs in silence, but is not what it is in Python.
#[test]
fn pythons_ways_that_mean_something_else_are_pointed_out() {
    let warned = [
        ("fn half(n) {\n    n // 2\n}\nhalf(4);", "2:7", "// starts a comment"),
        ("let k = 3;\nlet o = #{\n    a: len([1]) // k;\n};", "3:17", "// starts a comment"),
        ("let lr = 0.1;\nprint(\"lr ${lr}\");", "2:7", "inside backticks: `… ${lr}`"),
        ("let rows = [[1, 2]];\nrows.append([3, 4]);", "2:6", "list.push([…]) adds it as one element"),
        ("let x = ones([2]);\nprint((0 < x < 1).all());", "2:14", "write a < b && b < c"),
    ];
    for (script, place, what) in warned {
        let said = run(script);
        said.succeeds().says(&["warning: ", what, &format!("--> recipe.rhai:{place}\n")]);
    }
    for script in [
        "fn half(n) {\n    n / 2 // half of it\n}\nhalf(4);",
        "fn half(n) {\n    // 2\n    n // as it is\n}\nhalf(4);",
        "let n = 4; // 2\nlet o = [\n    n, // 2\n    n * 2,\n];",
        "let lr = 0.1; print(`lr ${lr}`); print(\"costs $5, {lr}\");",
        "let rows = [[1, 2]]; rows.append([[3, 4]]); rows.push([5, 6]); let flat = [1]; flat.append([2, 3]);",
    ] {
        let said = run(script);
        said.succeeds();
        assert!(!said.stderr.contains("warning"), "{script}: {said}");
    }
}

#[test]
fn two_declarations_of_a_parameter_agree() {
    let said = refused("let lr = param(\"lr\", 1e-3, \"rate\");\nlet wd = param(\"lr\", 0.05, \"copied\");");
    said.at("recipe.rhai:2:10", "let wd = param(\"lr\", 0.05, \"copied\");");
    said.says(&["the parameter `lr` has another default here, 0.05", "in recipe.rhai:1 it is 1e-3"]);
    let folder = Folder::new();
    folder.write("recipe.rhai", "fn a() { param(\"lr\", 1e-3) }\nfn b() { param(\"lr\", 0.001, \"rate\") }");
    folder.nepa(&["check", "recipe.rhai"]).succeeds();
    let help = folder.nepa(&["run", "recipe.rhai", "--help"]);
    assert_eq!(help.succeeds().stdout.matches("lr: float").count(), 1, "{help}");
}

#[test]
fn a_circle_of_imports_is_found_before_the_run() {
    let folder = Folder::new();
    folder.write("a.rhai", "import \"b\" as b;\nfn f() { b::g() }");
    folder.write("b.rhai", "import \"a\" as a;\nfn g() { 2 }");
    folder.write("own.rhai", "print(1);\nimport \"own\" as me;");
    folder.write("recipe.rhai", "import \"a\" as a;\nprint(a::f());");
    let said = folder.nepa(&["check", "recipe.rhai"]);
    said.fails(1).says(&["circular import: ", "a.rhai -> ", "b.rhai"]);
    folder.nepa(&["check", "own.rhai"]).fails(1).says(&["circular import: own.rhai -> own.rhai", "own.rhai:2:1"]);
    // One in a function is made when that is called.
    folder.write("b.rhai", "fn g() { 2 }\nfn later() { import \"a\" as a; a::f() }");
    folder.nepa(&["check", "recipe.rhai"]).succeeds();
    folder.nepa(&["run", "recipe.rhai"]).succeeds().prints(&["2"]);
}

#[test]
fn values_of_the_wrong_type_are_found_before_the_run() {
    let started = "print(\"begun\");\n";
    let config = "hidden_size: 8, num_attention_heads: 2";
    for (call, message) in [
        ("nn::linear(\"a\", 3);".to_string(), "no `nn::linear` takes (string, int)"),
        ("let n = device().len();\nnn::linear(n, 3.5);".into(), "no `nn::linear` takes (…, float)"),
        (
            format!("nn::blocks(#{{ {config}, qk_norm: \"yes\" }});"),
            "option `qk_norm` of nn::blocks: expected true or false, found the string \"yes\"",
        ),
        (
            format!("nn::blocks(#{{ {config}, hidden_act: \"glu\" }});"),
            "option `hidden_act` of nn::blocks: unknown value \"glu\"; did you mean `gelu`?",
        ),
        (
            "import \"std/finetune\" as f;\nf::fit((), (), #{ steps: \"many\" });".into(),
            "option `steps` of finetune::fit: expected",
        ),
    ] {
        let said = run(&format!("{started}{call}"));
        said.fails(1).says(&[message]);
        assert_eq!(said.stdout, "", "{said}");
    }
    // What is caught may be meant.
    let said = run("try { nn::linear(\"a\", 3); } catch (e) { print(e.message); }");
    said.succeeds().prints(&["no `nn::linear` takes (string, int)"]);
    let said = run("optim::adamw(nn::linear(2, 2), #{ eps: 0.0 / 0.0 });");
    said.fails(1).says(&["option `eps` of optim::adamw: expected a finite number, found the float NaN"]);
}

#[test]
fn a_switch_on_a_caught_error_is_refused() {
    let script = "try { throw \"a\"; } catch (e) {\n    if true { switch e { \"a\" => 1, _ => 2 } }\n}";
    let line = "    if true { switch e { \"a\" => 1, _ => 2 } }";
    refused(script)
        .at("recipe.rhai:2:15", line)
        .says(&["no case of this switch ever matches", "switch on e.message, or on e.value"]);
    run(&script.replace("switch e {", "switch e.value {")).succeeds();
}

#[test]
fn what_comes_with_nepa_has_no_warnings() {
    for folder in ["recipes", "examples"] {
        for name in names_in(&repository(folder)).into_iter().filter(|name| name.ends_with(".rhai")) {
            let path = repository(folder).join(name).display().to_string();
            let said = Folder::new().nepa(&["check", &path]);
            said.succeeds();
            assert_eq!(said.stderr, "", "{said}");
        }
    }
}
