//! `nepa report`: the page of real runs, what it must hold, and what it must never hold.

use crate::common::*;
use serde_json::json;

/// A run with parameters, metrics, a picture, a model and an evaluation.
fn run_once(folder: &Folder) {
    let script = format!(
        r#"// A recipe with </script> & <b>.
        import "std/pretrain" as pretrain;
        let lr = param("lr", 0.001, "learning rate");
        let name = param("name", "plain", "a text");
        for step in 1..=30 {{ run::log(#{{ phase: "train", step: step, loss: 2.0 / step, lr: lr }}); }}
        run::log(#{{ phase: "evaluate", top1: 81.25 }});
        plot::images(run::path("pic.png"), rand([4, 3, 8, 8]), #{{}});
        plot::images(run::path("samples/000.png"), rand([1, 3, 8, 8]), #{{}});
        checkpoint::save(nn::vit_nepa({TINY}), run::path("model"), #{{ weights: "ema" }});"#
    );
    folder.run_with(&script, &["--out", "runs/a", "--seed", "7", "--set", "name=<i>&\"x\""]).succeeds();
}

fn evaluation() -> String {
    let classes: Vec<_> = (0..30)
        .map(|i| json!({ "label": i, "name": if i == 3 { "<b>bold</b>".into() } else { format!("class-{i}") }, "images": 10, "top1": 50.0 + i as f64 }))
        .collect();
    json!({
        "ema": {
            "top1": 64.5, "top5": 91.0, "loss": 1.234, "images": 300, "top1_ci95": [59.0, 69.75], "ece": 0.042,
            "calibration": [{ "confidence": 0.5, "accuracy": 0.25, "count": 40 }, { "confidence": 1.0, "accuracy": 0.75, "count": 260 }],
            "per_class": classes, "confusions": [{ "label": 3, "predicted": 5, "count": 9 }], "unheard_of": { "x": 1 }
        },
        "raw": { "top1": 60.25 },
        "samples": [
            { "item": 17, "label": "class-1", "predicted": "<b>bold</b>", "probability": 0.875, "image": "samples/000.png" },
            { "label": "class-2", "predicted": "class-2", "image": "../../secret.png" },
            { "label": "class-3", "predicted": "class-4", "right": true }
        ]
    })
    .to_string()
}

fn page(folder: &Folder, args: &[&str]) -> String {
    let mut all = vec!["report", "runs/a"];
    all.extend(args);
    folder.nepa(&all).succeeds();
    folder.text(if args.is_empty() { "runs/a/report.html" } else { args[1] })
}

#[track_caller]
fn holds(page: &str, pieces: &[&str]) {
    for piece in pieces {
        assert!(page.contains(piece), "the page should hold `{piece}`");
    }
}

/// Nothing is fetched from anywhere, and no script is run.
#[track_caller]
fn stands_alone(page: &str) {
    for (i, _) in page.match_indices("src=").chain(page.match_indices("href=")) {
        let value = &page[i..page.len().min(i + 40)];
        assert!(value.contains("=\"data:image/"), "{value}");
    }
    assert!(!page.contains("<script") && !page.contains("@import") && !page.contains("<link"));
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("http://") && !outside.contains("https://"), "an address");
}

#[test]
fn a_run_becomes_a_page_that_stands_alone() {
    let folder = Folder::new();
    run_once(&folder);
    let page = page(&folder, &[]);
    stands_alone(&page);
    holds(
        &page,
        &["<strong>finished</strong>", "recipe.rhai", "0.001", "given with --set", ">seed<", ">7<", "libtorch"],
    );
    // Curves of what was logged with steps, and the last values by phase.
    assert_eq!(page.matches("<svg").count(), 2, "loss and learning rate");
    holds(&page, &["learning rate", "<h3>train</h3>", "0.06667", "<h3>evaluate</h3>", "81.25"]);
    holds(&page, &["alt=\"pic.png\"", "data:image/png;base64,iVBOR", "weights: ema"]);
    // What the user wrote is text.
    holds(&page, &["&lt;i&gt;&amp;", "A recipe with &lt;/script&gt; &amp; &lt;b&gt;."]);
    assert!(!page.contains("<b>") && !page.contains("<i>") && !page.contains("</script>"));
    assert_eq!(folder.names("runs/a").iter().filter(|n| n.starts_with(".partial")).count(), 0);
}

#[test]
fn an_evaluation_is_shown_with_the_worst_classes_first() {
    let folder = Folder::new();
    run_once(&folder);
    folder.write("runs/a/evaluation.json", evaluation());
    folder.write("secret.png", "secret");
    let page = page(&folder, &["--out", "pages/a.html"]);
    stands_alone(&page);
    holds(
        &page,
        &["64.50", "[59.00, 69.75]", "0.04200", "60.25", "Calibration: ema", "The 12 worst of 30", "All 30 classes"],
    );
    let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text}"));
    assert!(place(">class-0<") < place(">class-1<") && place(">class-1<") < place(">class-11<"));
    assert!(place(">class-29<") > place("<details>"), "the best only among all");
    // Confused classes by name, samples with their picture and verdict, all escaped.
    holds(
        &page,
        &[
            "<td>&lt;b&gt;bold&lt;/b&gt;</td><td>class-5</td>",
            "✗ &lt;b&gt;bold&lt;/b&gt; (0.88)",
            "item 17",
            "✓ class-2",
            "✓ class-4",
        ],
    );
    assert!(!page.contains("<b>"));
    // Confidences are percent, also where all are small.
    holds(&page, &["confidence (%)", ">50</text>", ">100</text>", "confidence 0.500, accuracy 0.250"]);
    // A picture outside of the run is not carried along.
    holds(&page, &["it is outside the run directory"]);
    assert_eq!(page.matches("data:image/png").count(), 2);
}

#[test]
fn a_run_of_which_little_is_left_has_a_page_too() {
    let folder = Folder::new();
    folder.write("runs/a/run.json", json!({ "state": "running", "error": "no <space>" }).to_string());
    folder.write("runs/a/metrics.jsonl", "{\"step\": 1, \"loss\": 2.5}\n{\"step\": 2, \"lo");
    folder.write("runs/a/evaluation.json", "{\"samples\": [{}], \"x\": 3, \"y\": {\"per_class\": [{}, {}]}}");
    folder.write("runs/a/checkpoints/train/step-00000005/manifest.json", "{");
    let page = page(&folder, &[]);
    stands_alone(&page);
    holds(&page, &["killed: it never finished", "no &lt;space&gt;", "cut short", "2.500"]);
    holds(&page, &["checkpoints/train/step-00000005", "incomplete"]);
}

#[test]
fn checkpoints_are_told_with_their_size_and_whether_they_are_whole() {
    let folder = Folder::new();
    let script = format!(
        r#"import "std/pretrain" as pretrain;
        let images = data::synthetic(#{{ len: 8, size: 8, classes: 2 }});
        pretrain::fit(nn::vit_nepa({TINY}), images, #{{ steps: 4, batch: 4, save_every: 2, transforms: [transform::normalize(0.5, 0.5)] }});"#
    );
    folder.run_with(&script, &["--out", "runs/a"]).succeeds();
    let checkpoint = folder.names("runs/a/checkpoints/pretrain").pop().expect("a checkpoint");
    let name = format!("checkpoints/pretrain/{checkpoint}");
    holds(&page(&folder, &[]), &[&name, "kB", ">complete<"]);
    let file = folder.names(&format!("runs/a/{name}")).into_iter().find(|n| n.ends_with(".safetensors"));
    folder.write(&format!("runs/a/{name}/{}", file.expect("tensors")), "short");
    holds(&page(&folder, &[]), &["incomplete", "bytes, found 5"]);
}

/// Large pictures are reduced, long curves thinned; the options of a loop and the size of its model are told.
#[test]
fn a_page_stays_small_and_holds_all_options() {
    let folder = Folder::new();
    let script = format!(
        r#"import "std/pretrain" as pretrain;
        let images = data::synthetic(#{{ len: 8, size: 8, classes: 2 }});
        let o = #{{ steps: 2, batch: 4, transforms: [transform::normalize(0.5, 0.5)] }};
        pretrain::fit(nn::vit_nepa({TINY}), images, o);
        plot::images(run::path("noise-0.png"), rand([1, 3, 1500, 1000]), #{{ zoom: 1 }});"#
    );
    folder.run_with(&script, &["--out", "runs/a"]).succeeds();
    let noise = folder.read("runs/a/noise-0.png");
    (1..4).for_each(|i| folder.write(&format!("runs/a/noise-{i}.png"), &noise));
    let mut lines = folder.text("runs/a/metrics.jsonl");
    let odd = |step: usize| if step == 31_415 { 1e4 } else { (step as f64 / 50.0).sin() };
    for step in 0..100_000 {
        lines += &format!("{}\n", json!({ "phase": "long", "step": step, "odd": odd(step), "loss": odd(step + 7) }));
    }
    folder.write("runs/a/metrics.jsonl", lines);
    let page = page(&folder, &[]);
    stands_alone(&page);
    assert!(noise.len() > 2 << 20, "{}", noise.len());
    assert!(page.len() < 2 << 20, "{}", page.len());
    holds(&page, &["data:image/jpeg;base64,/9j/", "reduced; noise-0.png has "]);
    // The peak of a thinned curve is still there: the axis reaches it.
    holds(&page, &["10000", "<h2>Options in force</h2>", "weight_decay", "model.hidden_size", "<h2>Models</h2>"]);
    let parameters = folder.json("runs/a/run.json")["models"]["pretrain"]["parameters"].to_string();
    holds(&page, &[&format!(">{parameters}</td>")]);
}

#[test]
fn the_machine_is_drawn_as_far_as_it_is_known() {
    let folder = Folder::new();
    folder.write("runs/a/run.json", "{}");
    let lines = |gpu: bool| -> String {
        let line = |i: i64| {
            let mut line = json!({ "time": 1000 + 15 * i, "cpu_percent": 5.5, "memory_used_bytes": 2e9 });
            if gpu {
                line["gpu1_power_watts"] = json!(300 + i);
            }
            format!("{line}\n")
        };
        (0..5).map(line).collect()
    };
    // A line that was cut short, as on a full disk.
    folder.write("runs/a/system.jsonl", format!("{}{{\"ti\n{}", lines(false), lines(true)));
    let one = page(&folder, &[]);
    stands_alone(&one);
    holds(&one, &["<h2>Machine</h2>", "processor (%)", "memory (GB)", "GPU power (W)"]);
    assert_eq!(one.matches("<svg").count(), 3);
    folder.write("runs/a/system-8.jsonl", lines(true));
    holds(&page(&folder, &[]), &["<h2>Machine of rank 0</h2>", "<h2>Machine of rank 8</h2>"]);
    std::os::unix::fs::symlink("../../secret", folder.path("runs/a/system-9.jsonl")).unwrap();
    folder.write("secret", lines(false));
    folder.nepa(&["report", "runs/a"]).fails(1).says(&["system-9.jsonl is a link that leads out"]);
}

#[test]
fn what_is_no_run_is_refused_with_what_was_expected() {
    let folder = Folder::new();
    folder.write("runs/first/run.json", "{}");
    folder.nepa(&["report", "runs"]).fails(1).says(&["runs is not a run directory: it has no run.json", "runs/first"]);
    folder.nepa(&["report", "runs/frist"]).fails(1).says(&["does not exist", "did you mean runs/first?"]);
    folder.nepa(&["report", "runs/first/run.json"]).fails(1).says(&["is a file, not a run directory"]);
    folder.nepa(&["report", "runs/first", "--out", "a.pdf"]).fails(1).says(&["a report is an .html file, found a.pdf"]);
    folder.write("runs/first/run.json", "[1]");
    folder.nepa(&["report", "runs/first"]).fails(1).says(&["run.json: expected a JSON object"]);
    folder.write("runs/first/run.json", "{");
    folder.nepa(&["report", "runs/first"]).fails(1).says(&["run.json is not valid JSON"]);
    folder.write("runs/first/run.json", "{}");
    folder.write("runs/first/evaluation.json", "[]");
    folder.nepa(&["report", "runs/first"]).fails(1).says(&["evaluation.json: expected a JSON object"]);
    folder.write("runs/first/evaluation.json", "{\"raw\": {\"per_class\": [{}, 5]}}");
    folder.nepa(&["report", "runs/first"]).fails(1).says(&["evaluation.json, raw: `per_class[1]`: invalid type"]);
    folder.write("runs/first/evaluation.json", "{}");
    folder.write("runs/first/metrics.jsonl", "nothing\n");
    folder.nepa(&["report", "runs/first"]).fails(1).says(&["metrics.jsonl, line 1: expected a JSON object"]);
    assert!(!folder.path("runs/first/report.html").exists());
}

#[test]
fn pictures_that_would_make_a_page_too_large_are_named_instead() {
    let folder = Folder::new();
    folder.run_with("run::log(#{ loss: 1.0 });", &["--out", "runs/a"]).succeeds();
    // Noise: as large as pictures get. A thumbnail of each takes about 0.5 MiB.
    let mut state = 1u32;
    let noise = image::RgbImage::from_fn(1100, 1000, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        image::Rgb([(state >> 24) as u8, (state >> 16) as u8, (state >> 8) as u8])
    });
    noise.save(folder.path("runs/a/noise-00.png")).unwrap();
    for i in 1..12 {
        std::fs::copy(folder.path("runs/a/noise-00.png"), folder.path(&format!("runs/a/noise-{i:02}.png"))).unwrap();
    }
    let page = page(&folder, &[]);
    holds(&page, &["data:image/jpeg;base64,", "noise-11.png: not shown: the pictures before it take up"]);
    // The last picture that fits may pass the limit of 3 MiB; base64 takes 4 bytes for 3.
    assert!(page.len() < 5 << 20, "{} bytes", page.len());
}
