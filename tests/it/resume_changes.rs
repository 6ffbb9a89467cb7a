//! What may not change when a run is resumed: scripts, functions, values. And that a refused attempt changes nothing.

use crate::common::*;
use serde_json::Value;
use std::collections::BTreeMap;

const RECIPE: &str = r#"// A recipe.
import "std/pretrain" as pretrain;
import "lib/losses" as losses;
let images = data::idx(param("data", ()), "test").take(64);
let weight = param("weight", 1.0);
let spread = |x| losses::spread(x) * weight;
let shrink = |x| losses::shrink(x);
let kind = if param("shrinks", false) { shrink } else { spread };
let model = nn::vit_nepa(#{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 });
let result = pretrain::fit(model, images, #{
    epochs: param("epochs", 2), batch: 32, lr: param("rate", 1e-3), ema: 0.5, log_every: 1,
    loss: |model, batch| {
        // The recipe's own.
        kind.call(model.forward(batch.images))
    },
});
print(result.steps);
"#;
const LOSSES: &str = "import \"norms\" as norms;\n\n/// A loss.\nfn spread(x) {\n    norms::square(x).mean()\n}\n\nfn shrink(x) {\n    0.0 - spread(x)\n}\n";

/// A folder with a recipe that imports a script, which imports another; and the recipe's parameter.
fn folder() -> (Folder, String) {
    let folder = Folder::new();
    folder.write("recipe.rhai", RECIPE);
    folder.write("lib/losses.rhai", LOSSES);
    folder.write("lib/norms.rhai", "fn square(x) { x.pow(2) }\n");
    (folder, format!("data={}", fashion()))
}

fn run(folder: &Folder, data: &str, more: &[&str]) -> Said {
    let args = ["run", "recipe.rhai", "--threads", "1", "--device", "cpu", "--set", data];
    folder.nepa(&[&args[..], more].concat())
}

/// Every file of a folder, with its content.
fn contents(folder: &Folder, name: &str) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for inner in folder.names(name) {
        let inner = format!("{name}/{inner}");
        match folder.path(&inner).is_dir() {
            true => all.extend(contents(folder, &inner)),
            false => drop(all.insert(inner.clone(), folder.read(&inner))),
        }
    }
    all
}

#[track_caller]
fn assert_untouched(folder: &Folder, before: &BTreeMap<String, Vec<u8>>) {
    let now = contents(folder, "o");
    let names = |all: &BTreeMap<String, Vec<u8>>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&now), names(before));
    for (name, content) in &now {
        assert!(before[name] == *content, "{name} has changed: {}", String::from_utf8_lossy(content));
    }
}

#[test]
fn a_changed_script_is_shown_as_a_diff_and_refused_and_nothing_is_written() {
    let (folder, data) = folder();
    run(&folder, &data, &["--out", "o"]).succeeds();
    let before = contents(&folder, "o");
    assert_eq!(folder.json("o/run.json")["state"], "finished");
    for (file, from, to, diff) in [
        (
            "recipe.rhai",
            "kind.call(model.forward(batch.images))",
            "kind.call(model.forward(batch.images * 2.0))",
            &[
                "--- recipe.rhai, as it was run (o/scripts/recipe-",
                "+++ recipe.rhai, as it is now\n@@ -11,7 +11,7 @@\n",
                "         // The recipe's own.\n-        kind.call(model.forward(batch.images))\n\
                 +        kind.call(model.forward(batch.images * 2.0))\n     },",
            ][..],
        ),
        ("recipe.rhai", "batch: 32", "batch: 16", &["-    epochs", "batch: 32", "+    epochs", "batch: 16"]),
        (
            "lib/losses.rhai",
            "norms::square(x).mean()",
            "norms::square(x).sum()",
            &["--- lib/losses.rhai, as it was", "\n-    norms::square(x).mean()\n+    norms::square(x).sum()\n"],
        ),
        ("lib/norms.rhai", "x.pow(2)", "x.pow(4)", &["-fn square(x) { x.pow(2) }\n+fn square(x) { x.pow(4) }"]),
    ] {
        let text = folder.text(file);
        folder.write(file, text.replace(from, to));
        for more in [
            &["--resume", "o"][..],
            &["--out", "o", "--set", "epochs=3"],
            &["--resume", "o", "--allow-change", "weight"],
        ] {
            let said = run(&folder, &data, more);
            said.fails(1).says(diff).says(&[
                "error: cannot resume o, because its scripts have changed since it was last run:\n---",
                "add --allow-change recipe",
                "o/scripts",
            ]);
            assert!(!said.stderr.contains("o: resumed"), "{said}");
            assert_untouched(&folder, &before);
        }
        folder.write(file, text);
    }
    // What was run is what it goes on with.
    run(&folder, &data, &["--out", "o", "--set", "epochs=3"]).succeeds().says(&["resumed from step 4"]);
}

#[test]
fn an_allowed_change_is_recorded_with_its_step() {
    let (folder, data) = folder();
    run(&folder, &data, &["--out", "o"]).succeeds();
    let first = folder.json("o/run.json");
    folder.write(
        "recipe.rhai",
        RECIPE.replace("kind.call(model", "2.0 * kind.call(model").replace("batch: 32", "batch: 16"),
    );
    let said = run(&folder, &data, &["--resume", "o", "--set", "epochs=3", "--allow-change", "recipe"]);
    said.succeeds().says(&[
        "+        2.0 * kind.call(model.forward(batch.images))",
        "  recipe.rhai: its text has changed",
        "  batch: was 32, now 16",
        "  loss.function: was \"|model,batch|{kind.call(",
    ]);
    let run_json = folder.json("o/run.json");
    assert_eq!((&run_json["command"], &run_json["started"]), (&first["command"], &first["started"]));
    let resumed = &run_json["resumed"][0];
    assert!(resumed["command"].as_array().unwrap().contains(&"--allow-change".into()), "{resumed}");
    assert_eq!(resumed["steps"], serde_json::json!({ "pretrain": 4 }));
    let changes: Vec<&str> = resumed["changes"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    for change in [
        "recipe.rhai: its text has changed",
        "pretrain, step 4: batch: was 32, now 16",
        "parameter epochs: was 2, now 3",
    ] {
        assert!(changes.contains(&change), "{changes:?}");
    }
    // Both texts are kept, each beside the scripts that it was run with.
    let text = |run: &Value| folder.text(&format!("o/{}", run["scripts"][0]["file"].as_str().unwrap()));
    assert_eq!((text(&first), text(resumed)), (RECIPE.to_string(), folder.text("recipe.rhai")));
    assert_eq!(folder.text("o/recipe.rhai"), folder.text("recipe.rhai"));
    assert!(folder.text("o/run.log").contains("-        kind.call(model.forward(batch.images))"));
    folder
        .nepa(&["inspect", "o"])
        .succeeds()
        .prints(&["pretrain: from step 4", "pretrain, step 4: batch: was 32, now 16"]);
    folder.nepa(&["report", "o"]).succeeds();
    let page = folder.text("o/report.html");
    assert!(page.contains("pretrain: step 4") && page.contains("pretrain, step 4: batch: was 32, now 16"), "{page}");

    // From now on the new text is what must not change.
    run(&folder, &data, &["--resume", "o"]).succeeds();
    folder.write("recipe.rhai", RECIPE);
    run(&folder, &data, &["--resume", "o"]).fails(1).says(&["-        2.0 * kind.call("]);
}

#[test]
fn comments_and_spacing_may_change_and_are_noted() {
    let (folder, data) = folder();
    run(&folder, &data, &["--out", "o"]).succeeds();
    folder
        .write("recipe.rhai", RECIPE.replace("// The recipe's own.", "// Mine.\n").replace("batch: 32", "batch:   32"));
    folder.write("lib/losses.rhai", LOSSES.replace("/// A loss.", "/// The loss."));
    let said = run(&folder, &data, &["--resume", "o", "--set", "epochs=3"]);
    said.succeeds().says(&[
        "  recipe.rhai: only comments or spacing have changed",
        "  lib/losses.rhai: only comments or spacing have changed",
        "resumed from step 4",
    ]);
    assert!(!said.stderr.contains("loss.function"), "{said}");
    // In a text they are no comments and no spacing.
    folder.write(
        "recipe.rhai",
        folder.text("recipe.rhai").replace("print(result.steps)", "print(`${result.steps} // a`)"),
    );
    run(&folder, &data, &["--resume", "o"]).fails(1).says(&["+print(`${result.steps} // a`);"]);
}

#[test]
fn a_function_is_compared_by_its_code_and_by_what_it_captures() {
    let (folder, data) = folder();
    run(&folder, &data, &["--out", "o"]).succeeds();
    let before = contents(&folder, "o");
    let said = run(&folder, &data, &["--out", "o", "--set", "weight=2.0"]);
    said.fails(1).says(&[
        "parameter weight: was 1.0, now 2.0",
        "loss.captured.kind.captured.weight: was 1.0, now 2.0",
        "add --allow-change loss.captured.kind.captured.weight",
    ]);
    let said = run(&folder, &data, &["--out", "o", "--set", "shrinks=true"]);
    said.fails(1).says(&[
        "loss.captured.kind.function: was \"|x|losses::spread(x)*weight\", now \"|x|losses::shrink(x)\"",
        "these settings have changed",
    ]);
    assert_untouched(&folder, &before);
    for allowed in ["loss", "loss.captured.kind.captured.weight", "weight"] {
        folder.nepa(&["run", "--resume", "o", "--set", "weight=1.0", "--allow-change", "weight"]).succeeds();
        let said = run(&folder, &data, &["--out", "o", "--set", "weight=2.0", "--allow-change", allowed]);
        said.succeeds().says(&["  loss.captured.kind.captured.weight: was 1.0, now 2.0"]);
    }
}

/// A resumed recipe passes over a finished loop, and what its functions counted in it is lost.
#[test]
fn what_a_function_counts_is_no_setting() {
    let folder = Folder::new();
    let script = r#"
        let count = 0;
        let seen = [];
        let f = || { count += 1; seen.push(count); };
        for label in ["a", "b"] {
            let saver = run::checkpoints(label, #{ model: nn::linear(2, 2) }, #{});
            let saved = saver.resume(#{ f: f }, []);
            if saved == () { f.call(); }
            saver.finish(1, #{});
        }
    "#;
    folder.run_with(script, &["--out", "o"]).succeeds();
    folder.run_with(script, &["--out", "o"]).succeeds();
}

#[test]
fn a_named_function_is_compared_too() {
    let folder = Folder::new();
    let script = |body: &str, chosen: &str| {
        format!(
            "fn double(x) {{ {body} }}\nfn triple(x) {{ x * 3.0 }}\n\
             let saver = run::checkpoints(\"loop\", #{{ model: nn::linear(2, 2) }}, #{{}});\n\
             saver.resume(#{{ f: Fn(if param(\"chosen\", \"{chosen}\") == \"double\" {{ \"double\" }} else {{ \"triple\" }}) }}, []);\n\
             saver.finish(1, #{{}});"
        )
    };
    folder.run_with(&script("x * 2.0", "double"), &["--out", "o"]).succeeds();
    folder
        .run_with(&script("x * 2.0", "double"), &["--out", "o", "--set", "chosen=triple"])
        .fails(1)
        .says(&["f.function: was \"fn double(x){x*2.0}\", now \"fn triple(x){x*3.0}\"", "--allow-change f.function"]);
    let said = folder.run_with(&script("x + x", "double"), &["--out", "o", "--allow-change", "recipe"]);
    said.succeeds().says(&["f.function: was \"fn double(x){x*2.0}\", now \"fn double(x){x+x}\""]);
}

#[test]
fn a_tasks_functions_are_compared() {
    let folder = Folder::new();
    let script = r#"
        import "std/train" as train;
        let power = param("power", 2.0);
        let task = #{ loss: |model, batch, o| #{ loss: model.forward(batch.images).abs().pow(power).mean() } };
        let model = nn::vit_nepa(#{ image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 });
        train::fit(model, data::synthetic(#{ len: 8, size: 8, classes: 2 }), task, #{ steps: 2, batch: 4, ema: 0.5 });
    "#;
    folder.run_with(script, &["--out", "o"]).succeeds();
    let said = folder.run_with(script, &["--out", "o", "--set", "power=3.0"]);
    said.fails(1).says(&["task.loss.captured.power: was 2.0, now 3.0", "--allow-change task.loss.captured.power"]);
    folder.run_with(script, &["--out", "o", "--set", "power=3.0", "--allow-change", "power"]).succeeds();
}

#[test]
fn a_setting_may_change_if_it_or_its_parameter_is_named() {
    let (folder, data) = folder();
    run(&folder, &data, &["--out", "o"]).succeeds();
    let before = contents(&folder, "o");
    let changed = ["--out", "o", "--set", "rate=0.002", "--seed", "7", "--set", "epochs=3"];
    let with = |names: &[&str]| run(&folder, &data, &[&changed[..], names].concat());
    with(&[]).fails(1).says(&["seed: was 0, now 7", "add --allow-change seed"]);
    with(&["--allow-change", "seed"]).fails(1).says(&["lr: was 0.001, now 0.002", "--allow-change lr;"]);
    for (given, near) in [
        ("lrr", "did you mean `lr`?"),
        ("recipee", "did you mean `recipe`?"),
        ("model.hidden_sise", "`model.hidden_size`"),
    ] {
        let said = with(&["--allow-change", given]);
        said.fails(1).says(&[&format!("--allow-change {given}: the run has no setting `{given}`"), near]);
    }
    assert_untouched(&folder, &before);
    with(&["--allow-change", "seed,rate"]).succeeds().says(&["  lr: was 0.001, now 0.002", "  seed: was 0, now 7"]);
    let said = run(
        &folder,
        &data,
        &["--out", "o", "--set", "rate=0.003", "--seed", "8", "--allow-change", "seed", "--allow-change", "lr"],
    );
    said.succeeds().says(&["  lr: was 0.002, now 0.003"]);
    // Without a run there is nothing to allow.
    run(&folder, &data, &["--allow-change", "lr"]).fails(1).says(&["--allow-change lr: no run is resumed"]);
    run(&folder, &data, &["--allow-change", "lr", "--out", "p"])
        .fails(1)
        .says(&["p holds no run to resume", "leave it out"]);
    assert!(!folder.path("p").exists());
}

/// A run that is stopped again before its next checkpoint goes on by the command that it prints.
#[test]
fn what_was_allowed_once_stays_allowed_until_the_next_checkpoint() {
    let (folder, data) = folder();
    run(&folder, &data, &["--out", "o"]).succeeds();
    let slow =
        RECIPE.replace("kind.call(model", "let end = seconds() + 0.5; while seconds() < end { } 2.0 * kind.call(model");
    folder.write("recipe.rhai", slow);
    let args = ["run", "recipe.rhai", "--threads", "1", "--device", "cpu", "--resume", "o"];
    let changed = ["--set", "epochs=20", "--set", "rate=0.002", "--allow-change", "recipe,rate"];
    let running = folder.start(&[&args[..], &changed].concat(), &[]);
    while !folder.text("o/metrics.jsonl").contains("\"step\":6") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    running.signal(libc::SIGKILL);
    running.killed();
    assert_eq!(folder.names("o/checkpoints/pretrain"), ["step-00000004"]);
    folder.nepa(&[&args[..], &["--set", "rate=0.003"]].concat()).fails(1).says(&["lr: was 0.001, now 0.003"]);
    let said = folder.nepa(&[&args[..], &["--set", "epochs=3"]].concat());
    said.succeeds().says(&["  lr: was 0.001, now 0.002", "resumed from step 4"]);
    let resumed = &folder.json("o/run.json")["resumed"];
    assert_eq!(resumed[0]["allowed"]["pretrain"]["lr"], 0.002);
    // From here on it is what the run was trained with.
    let said = folder.nepa(&args);
    said.succeeds().says(&["resumed from step 6"]);
    assert!(!said.stderr.contains("lr: was"), "{said}");
}

#[test]
fn a_changed_recipe_does_not_hide_a_changed_parameter() {
    let (folder, data) = folder();
    run(&folder, &data, &["--out", "o"]).succeeds();
    folder.write(
        "recipe.rhai",
        RECIPE.replace("print(result.steps)", "print(\"steps\", result.steps)").replace("\"steps\", ", ""),
    );
    folder.write("lib/norms.rhai", "fn square(x) { x * x }\n");
    let said = run(&folder, &data, &["--out", "o", "--set", "rate=0.002", "--allow-change", "recipe"]);
    said.fails(1).says(&["lr: was 0.001, now 0.002", "add --allow-change lr"]);
    run(&folder, &data, &["--out", "o", "--set", "rate=0.002", "--allow-change", "recipe,lr"]).succeeds();
}

#[test]
fn another_standard_library_is_told_by_its_version() {
    let (folder, data) = folder();
    run(&folder, &data, &["--out", "o"]).succeeds();
    // As another nepa would have left it.
    let text = folder.text("o/run.json");
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    for script in changed["scripts"].as_array_mut().unwrap() {
        if script["name"] == "std/train.rhai" {
            script["crc32"] = "00000000".into();
            script["code_crc32"] = "00000000".into();
        }
    }
    changed["versions"]["nepa"] = "0.0.9".into();
    folder.write("o/run.json", changed.to_string());
    let version = env!("CARGO_PKG_VERSION");
    let said = run(&folder, &data, &["--resume", "o", "--allow-change", "recipe"]);
    said.fails(1).says(&[&format!("std/train.rhai: nepa 0.0.9, now nepa {version}"), "add --allow-change std"]);
    let said = run(&folder, &data, &["--resume", "o", "--allow-change", "std"]);
    said.succeeds().says(&[&format!("  nepa: was 0.0.9, now {version}"), "std/train.rhai: nepa 0.0.9"]);

    // One from a folder is compared by its text.
    std::fs::create_dir_all(folder.path("own")).unwrap();
    std::fs::copy(repository("stdlib/train.rhai"), folder.path("own/train.rhai")).unwrap();
    run(&folder, &data, &["--resume", "o", "--stdlib", "own"]).succeeds();
    let train = folder.text("own/train.rhai");
    folder.write("own/train.rhai", train.replace("model.train(true);  ", "model.train(false); "));
    let said = run(&folder, &data, &["--resume", "o", "--stdlib", "own"]);
    said.fails(1).says(&["+        model.train(false);", "--allow-change std"]);
    run(&folder, &data, &["--resume", "o"]).succeeds();
}

#[test]
fn a_second_loop_that_is_refused_leaves_the_run_as_it_was() {
    let (folder, data) = folder();
    let script = format!(
        "{RECIPE}\nimport \"std/finetune\" as finetune;\n\
         finetune::fit(finetune::classifier(model, 10, #{{}}), images, #{{ epochs: 1, batch: 32, ema: 0.5, lr: param(\"second\", 1e-3) }});\n"
    );
    folder.write("recipe.rhai", script);
    run(&folder, &data, &["--out", "o"]).succeeds();
    let before = contents(&folder, "o");
    let said = run(&folder, &data, &["--out", "o", "--set", "second=0.002"]);
    said.fails(1).says(&["pretrain: resumed from step 4", "finetune: cannot resume from", "lr: was 0.001, now 0.002"]);
    assert_untouched(&folder, &before);
    run(&folder, &data, &["--out", "o", "--set", "second=0.002", "--allow-change", "lr"]).succeeds();
    // Also where the first loop has gone on before.
    let more = ["--out", "o", "--set", "second=0.003", "--set", "epochs=3"];
    let said = run(&folder, &data, &[&more[..], &["--allow-change", "second"]].concat());
    said.fails(1)
        .says(&["finetune: cannot resume from", "the loop starts from other weights: of a longer earlier phase"]);
    let said = run(&folder, &data, &[&more[..], &["--allow-change", "lr,initial_weights"]].concat());
    said.succeeds().says(&["  lr: was 0.001, now 0.003", "initial_weights: was "]);
}

#[test]
fn a_script_imported_by_a_computed_path_is_compared_where_it_is_imported() {
    let folder = Folder::new();
    folder.write("lib/a.rhai", "fn f(x) { x + 1 }");
    folder.write("lib/b.rhai", "fn f(x) { x + 2 }");
    let script = r#"
        let path = "lib/" + param("lib", "a");
        import path as lib;
        let saver = run::checkpoints("loop", #{ model: nn::linear(2, 2) }, #{});
        saver.resume(#{}, []);
        print(lib::f(1));
        saver.finish(1, #{});
    "#;
    folder.run_with(script, &["--out", "o"]).succeeds().prints(&["2"]);
    let before = contents(&folder, "o");
    folder.run_with(script, &["--out", "o", "--set", "lib=b"]).fails(1).says(&["lib/b.rhai: imported now, not before"]);
    folder.write("lib/a.rhai", "fn f(x) { x + 3 }");
    let said = folder.run_with(script, &["--out", "o"]);
    said.fails(1).says(&["-fn f(x) { x + 1 }", "+fn f(x) { x + 3 }", "add --allow-change recipe"]);
    assert_untouched(&folder, &before);
    folder.run_with(script, &["--out", "o", "--allow-change", "recipe"]).succeeds().prints(&["4"]);
}

#[test]
fn a_script_that_is_edited_during_a_run_does_not_change_the_run() {
    let folder = Folder::new();
    folder.write("late.rhai", "fn f() { 1 }");
    let script = "let f = || { import \"late\" as late; late::f() };\nprint(\"ready\");\n\
                  let end = seconds() + 1.5; while seconds() < end { }\nprint(f.call());";
    folder.write("recipe.rhai", script);
    let running = folder.start(&["run", "recipe.rhai", "--device", "cpu"], &[]);
    running.wait_for("ready");
    folder.write("late.rhai", "fn f() { 2 }");
    running.finish().succeeds().prints(&["ready\n1\n"]);
}

#[test]
fn an_attempt_that_fails_or_is_stopped_before_its_first_step_leaves_the_run_as_it_was() {
    let (folder, data) = folder();
    let script = RECIPE.replace("let result", "if param(\"fails\", false) { throw \"no\"; }\nif param(\"waits\", false) { print(\"ready\"); loop { } }\nlet result");
    folder.write("recipe.rhai", script);
    run(&folder, &data, &["--out", "o"]).succeeds();
    let before = contents(&folder, "o");
    run(&folder, &data, &["--out", "o", "--set", "fails=true"]).fails(1).says(&["error: no"]);
    assert_untouched(&folder, &before);
    let args = ["run", "recipe.rhai", "--device", "cpu", "--set", &data, "--out", "o", "--set", "waits=true"];
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let running = folder.start(&args, &[]);
        running.wait_for("ready");
        folder.nepa(&["inspect", "o"]).succeeds().prints(&["finished; a process is resuming it"]);
        running.signal(signal);
        running.killed();
        assert_untouched(&folder, &before);
    }
    // Until there is a checkpoint there is nothing to keep.
    folder.run_with("run::log(#{ a: 1 }); throw \"no\";", &["--out", "p"]).fails(1);
    folder.run_with("run::log(#{ a: 2 });", &["--out", "p"]).succeeds();
    assert_eq!(folder.text("p/metrics.jsonl"), "{\"a\":2}\n");
}
