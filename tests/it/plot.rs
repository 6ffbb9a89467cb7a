//! `nepa plot`, and pictures that scripts draw: PNG by their pixels, SVG by their text.

use crate::common::*;
use serde_json::{Value, json};

fn metrics(lines: impl IntoIterator<Item = Value>) -> String {
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

/// A line for every 10th step of a phase.
fn phase(name: &str, steps: i64) -> Vec<Value> {
    let line = |s: i64| {
        let t = s as f64 / steps as f64;
        json!({ "phase": name, "step": s, "epoch": (s - 1) / 100, "loss": 1.0 - t, "lr": 1e-3 * t,
                "grad_norm": (6.0 * t).exp(), "seconds": s })
    };
    (1..=steps / 10).map(|i| line(10 * i)).collect()
}

/// A run directory with these lines.
fn add_run(folder: &Folder, dir: &str, state: &str, lines: Vec<Value>) {
    folder.write(&format!("{dir}/run.json"), json!({ "state": state }).to_string());
    folder.write(&format!("{dir}/metrics.jsonl"), metrics(lines));
}

fn pixels(folder: &Folder, name: &str) -> image::RgbImage {
    image::open(folder.path(name)).unwrap().to_rgb8()
}

/// The texts of an SVG file, in its order.
fn texts(folder: &Folder, name: &str) -> Vec<String> {
    let svg = folder.text(name);
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name} is no whole SVG file");
    let inner = |text: &str| text.split_once('>').unwrap().1.split("</text>").next().unwrap().trim().to_string();
    svg.split("<text ").skip(1).map(inner).collect()
}

/// The pieces of the first curve of a picture.
fn pieces(folder: &Folder, name: &str) -> usize {
    let svg = folder.text(name);
    let lines = svg.split("<polyline").skip(1).filter_map(|rest| rest.split("/>").next());
    lines.filter(|line| line.to_uppercase().contains("#0072B2")).count()
}

#[track_caller]
fn shows(found: &[String], expected: &[&str]) {
    for text in expected {
        assert!(found.iter().any(|t| t == text), "should show `{text}`: {found:?}");
    }
}

#[test]
fn one_run_is_drawn_into_its_directory() {
    let folder = Folder::new();
    add_run(&folder, "runs/a", "finished", phase("pretrain", 1000));
    let said = folder.nepa(&["plot", "runs/a"]);
    said.succeeds().prints(&["runs/a/curves.png: loss, learning rate, gradient norm"]);
    assert_eq!(folder.names("runs/a"), ["curves.png", "metrics.jsonl", "run.json"], "nothing else is left");
    let picture = pixels(&folder, "runs/a/curves.png");
    // White paper, and the first colour as curves in each of the three panels.
    let blue = |x0: u32, y0: u32| {
        let (w, h) = (picture.width() / 2, picture.height() / 2);
        (y0 * h..(y0 + 1) * h)
            .flat_map(|y| (x0 * w..(x0 + 1) * w).map(move |x| (x, y)))
            .filter(|(x, y)| picture.get_pixel(*x, *y).0 == [0, 114, 178])
            .count()
    };
    assert_eq!(picture.get_pixel(0, 0).0, [255; 3]);
    for (x, y) in [(0, 0), (1, 0), (0, 1)] {
        assert!(blue(x, y) > 200, "panel {x} {y}: {}", blue(x, y));
    }
    assert_eq!(blue(1, 1), 0, "three panels");
}

#[test]
fn several_runs_have_a_legend_and_their_states() {
    let folder = Folder::new();
    add_run(&folder, "runs/a", "finished", phase("pretrain", 1000));
    add_run(&folder, "runs/b", "running", [phase("pretrain", 500), phase("probe", 100)].concat());
    folder.write("c.jsonl", metrics(phase("pretrain", 300)));
    folder.nepa(&["plot", "runs/a", "runs/b", "c.jsonl"]).succeeds().prints(&["curves.png: loss"]);
    assert!(folder.path("curves.png").is_file());
    folder.nepa(&["plot", "runs/a", "runs/b", "c.jsonl", "--out", "x/y.svg"]).succeeds().prints(&["x/y.svg: loss"]);
    shows(
        &texts(&folder, "x/y.svg"),
        &[
            "3 runs",
            "a: finished; 100 lines of metrics",
            "b: killed: it never finished, and no process is running it; 60 lines of metrics",
            "c.jsonl: 30 lines of metrics",
            "a: pretrain",
            "b: pretrain",
            "b: probe",
            "c.jsonl: pretrain",
            "loss",
            "learning rate",
            "gradient norm",
            "step",
        ],
    );
    folder
        .nepa(&["plot", "runs/a", "runs/b", "--phase", "probe", "--out", "p.svg"])
        .succeeds()
        .says(&["note: runs/a is left out: it has no phase `probe`"]);
    shows(&texts(&folder, "p.svg"), &["2 runs, phase probe"]);
}

#[test]
fn runs_of_the_same_name_are_told_apart() {
    let folder = Folder::new();
    for dir in ["x/run", "y/run"] {
        add_run(&folder, dir, "finished", phase("pretrain", 100));
    }
    folder.nepa(&["plot", "x/run", "y/run/metrics.jsonl", "--out", "o.svg"]).succeeds();
    shows(
        &texts(&folder, "o.svg"),
        &["x/run: finished; 10 lines of metrics", "y/run/metrics.jsonl: finished; 10 lines of metrics"],
    );
}

#[test]
fn axes_have_units_and_wide_gradients_are_logarithmic() {
    let folder = Folder::new();
    add_run(&folder, "r", "finished", phase("pretrain", 1000));
    for (x, title, tick) in [("epoch", "epoch", "10"), ("time", "time (minutes)", "15"), ("step", "step", "1000")] {
        folder.nepa(&["plot", "r", "--x", x, "--smooth", "5", "--out", "o.svg"]).succeeds();
        // Gradient norms of 1 to 400: decades.
        shows(&texts(&folder, "o.svg"), &[title, tick, "1", "10", "100", "r, moving average over 5 points"]);
    }
}

#[test]
fn close_and_constant_values_have_axes_of_their_own_size() {
    let folder = Folder::new();
    let line = |s: i64| json!({ "step": s, "top1": 0.999 + 1e-4 * s as f64, "lr": 1e-3 });
    add_run(&folder, "r", "finished", (1..10).map(line).collect());
    folder.nepa(&["plot", "r", "--out", "o.svg"]).succeeds();
    shows(&texts(&folder, "o.svg"), &["0.9992", "0.9994", "0.9998", "9e-4", "1e-3", "1.1e-3"]);
}

#[test]
fn collapse_throughput_and_accuracy_have_panels_where_they_are_logged() {
    let folder = Folder::new();
    let names =
        ["target_std", "effective_rank", "target_cosine", "images_per_second", "knn_top1", "probe_top1", "top1"];
    let line =
        |s: i64| names.iter().map(|n| (n.to_string(), json!(s))).chain([("step".to_string(), json!(s))]).collect();
    add_run(&folder, "r", "failed", (1..5).map(|s| Value::Object(line(s))).collect());
    let said = folder.nepa(&["plot", "r"]);
    said.succeeds().prints(&["standard deviation of targets, effective rank of targets, cosine between targets, \
                              throughput, k-NN top-1 accuracy, linear probe top-1 accuracy, top-1 accuracy"]);
    // A number that is only logged without a step is told.
    add_run(&folder, "s", "finished", vec![json!({ "step": 1, "loss": 1 }), json!({ "top1": 0.5 })]);
    folder.nepa(&["plot", "s"]).succeeds().says(&["note: `top1` is left out: no line with it has a `step`"]);
}

/// Whatever a script logs is drawn; the parts of the data share a panel.
#[test]
fn every_number_has_a_panel() {
    let folder = Folder::new();
    let line = |s: i64| json!({ "step": s, "train/loss": 1, "val/loss": 2, "my_metric": s, "text": "x", "on": true });
    add_run(&folder, "r", "finished", (1..5).map(line).collect());
    folder.nepa(&["plot", "r", "--out", "o.svg"]).succeeds().prints(&["o.svg: loss, my_metric\n"]);
    shows(&texts(&folder, "o.svg"), &["loss", "my_metric", "train", "val"]);
    folder.nepa(&["plot", "r", "--metric", "val/loss", "--out", "o.svg"]).succeeds().prints(&["o.svg: val/loss\n"]);
}

/// Runs are told apart by the parameters in which they differ.
#[test]
fn runs_are_named_by_what_differs() {
    let folder = Folder::new();
    for (dir, lr, seed) in [("a", 0.001, 0), ("b", 0.003, 0), ("c", 0.003, 0)] {
        add_run(&folder, dir, "finished", phase("p", 100));
        let run = json!({ "state": "finished", "seed": seed, "params": { "lr": lr, "model": "small" } });
        folder.write(&format!("{dir}/run.json"), run.to_string());
    }
    let shown = |runs: &[&str]| {
        folder.nepa(&[&["plot", "--out", "o.svg"], runs].concat()).succeeds();
        texts(&folder, "o.svg")
    };
    let about = "finished; 10 lines of metrics";
    shows(&shown(&["a", "b"]), &[&format!("lr=0.001: a, {about}"), &format!("lr=0.003: b, {about}")]);
    shows(&shown(&["a", "b", "c"]), &[&format!("lr=0.003 (b): b, {about}"), &format!("lr=0.003 (c): c, {about}")]);
    // Nothing differs: the folders' names.
    shows(&shown(&["b", "c"]), &[&format!("b: {about}"), &format!("c: {about}")]);
}

#[test]
fn a_torn_last_line_is_left_out_and_told() {
    let folder = Folder::new();
    folder.write("r/metrics.jsonl", metrics(phase("p", 100)) + "{\"phase\":\"p\",\"ste");
    folder.nepa(&["plot", "r"]).succeeds().says(&["note: ignoring the last line of r's metrics, which was cut short"]);
    folder.write("s/metrics.jsonl", "{\"phase\":\"p\",\"ste");
    folder.nepa(&["plot", "s"]).fails(1).says(&["s/metrics.jsonl holds no metrics but a line that was cut short"]);
}

#[test]
fn bad_input_is_told() {
    let folder = Folder::new();
    add_run(&folder, "runs/first", "finished", phase("pretrain", 100));
    add_run(&folder, "runs/empty", "finished", vec![]);
    add_run(&folder, "runs/bad", "finished", phase("pretrain", 100));
    folder.write("runs/bad/metrics.jsonl", metrics(phase("pretrain", 20)) + "what is this\n{\"step\":30}\n");
    folder.write("runs/list/metrics.jsonl", "[1]\n");
    folder.write("runs/other/metrics.jsonl", "{\"step\":1,\"size\":\"big\"}\n");
    folder.write("runs/none/run.json", "{}");
    for (args, pieces) in [
        (&["runs/fisrt"][..], &["runs/fisrt does not exist", "did you mean runs/first?"][..]),
        (&["runs"], &["runs is not a run directory", "inside it are: runs/bad, runs/empty, runs/first"]),
        (&["runs/none"], &["runs/none has no metrics.jsonl"]),
        (&["runs/empty"], &["runs/empty/metrics.jsonl holds no metrics", "run::log"]),
        (&["runs/first", "runs/empty"], &["runs/empty/metrics.jsonl holds no metrics"]),
        (&["runs/bad"], &["runs/bad/metrics.jsonl, line 3: expected a JSON object, found `what is this`"]),
        (&["runs/list"], &["line 1", "it is JSON, but not an object"]),
        (&["runs/other"], &["nothing to draw over a `step`", "the lines hold size, step", "draws every number"]),
        (
            &["runs/first", "--phase", "pretrian"],
            &["no run has a phase `pretrian`", "`pretrain`?", "the phases are: pretrain"],
        ),
        (&["runs/first", "--metric", "los"], &["no run has logged a number `los`", "`loss`?", "loss, lr, grad_norm"]),
        (&["runs/first", "--out", "x.jpg"], &[".png or .svg", "x.jpg"]),
        (&["runs/first", "--out", "x"], &[".png or .svg", "found x"]),
        (&["runs/first", "--out", "/proc/nowhere/x.png"], &["/proc/nowhere"]),
    ] {
        folder.nepa(&[&["plot"], args].concat()).fails(1).says(pieces);
    }
    for (args, pieces) in [
        (&["runs/first", "--x", "steps"][..], &["steps", "step, epoch, time"][..]),
        (&["runs/first", "--smooth", "0"], &["--smooth", "0"]),
        (&[], &["RUNS"]),
    ] {
        folder.nepa(&[&["plot"], args].concat()).fails(2).says(pieces);
    }
    assert_eq!(folder.names(""), ["runs"], "nothing was drawn");
}

#[test]
fn a_real_run_can_be_drawn() {
    let folder = Folder::new();
    let script = "for s in 1..30 { run::log(#{ phase: \"p\", step: s, loss: 1.0 / s }); }";
    folder.run_with(script, &["--out", "r"]).succeeds();
    folder.nepa(&["plot", "r", "--out", "o.svg"]).succeeds();
    shows(&texts(&folder, "o.svg"), &["r", "finished; 29 lines of metrics", "loss"]);
}

#[test]
fn scripts_draw_svg_files_too() {
    let folder = Folder::new();
    let script = r#"
        let o = #{ title: "A title", x: "the x", y: "the y" };
        plot::lines("l.svg", #{ first: [[0, 1], [1, 2]], second: [[0, 2], [1, 1]] }, o);
        plot::lines("l.PNG", #{ first: [[0, 1], [1, 2]], second: [[0, 2], [1, 1]] }, o);
        plot::bars("b.svg", [["one", 0.5, 0.1], ["two", 0.75, 0.0]], o);
    "#;
    folder.run(script).succeeds();
    assert_eq!(folder.names(""), ["b.svg", "l.PNG", "l.svg", "recipe.rhai"]);
    shows(&texts(&folder, "l.svg"), &["A title", "the x", "the y", "first", "second"]);
    shows(&texts(&folder, "b.svg"), &["A title", "the y", "one", "two", "0.5 ± 0.1", "0.75"]);
    for (call, pieces) in [
        ("plot::lines(\"l.gif\", #{ a: [[0, 1]] }, #{});", &["PNG", "l.gif"][..]),
        ("plot::images(\"i.svg\", zeros([1, 3, 4, 4]), #{});", &["PNG files", "i.svg"]),
    ] {
        let said = folder.run(call);
        assert!(said.stderr.to_uppercase().contains("PNG"), "{said}");
        said.fails(1).says(&pieces[1..]);
    }
}

#[test]
fn thick_curves_that_turn_sharply_stay_within_their_points() {
    let folder = Folder::new();
    // Up and down between 0.4 and 0.6, in a picture from 0 to 1.
    let script = r#"
        let zigzag = [];
        for i in 0..400 { zigzag.push([i, if i % 2 == 0 { 0.4 } else { 0.6 }]); }
        plot::lines("z.png", #{ a: [[0, 0], [0, 1]], zigzag: zigzag }, #{});
    "#;
    folder.run(script).succeeds();
    let picture = pixels(&folder, "z.png");
    // The second colour, left of the legend.
    let orange = |y: u32| (100..600).filter(|x| picture.get_pixel(*x, y).0 == [230, 159, 0]).count();
    let rows: Vec<u32> = (0..picture.height()).filter(|y| orange(*y) > 0).collect();
    let height = f64::from(rows[rows.len() - 1] - rows[0]) / f64::from(picture.height());
    assert!((0.15..0.22).contains(&height), "{height} of the picture");
}

/// Metrics with values that no axis was made for: every picture is drawn, and ends.
#[test]
fn odd_numbers_are_drawn() {
    let folder = Folder::new();
    let lines = |pairs: &[(&str, &str)]| -> String {
        pairs.iter().map(|(step, loss)| format!("{{\"step\":{step},\"loss\":{loss},\"grad_norm\":{loss}}}\n")).collect()
    };
    for (i, text) in [
        lines(&[("1", "1e308"), ("2", "-1e308"), ("3", "0.5")]),
        lines(&[("1", "1e308"), ("2", "1e308")]),
        lines(&[("1", "5e-324"), ("2", "1e-320"), ("3", "1e308")]),
        lines(&[("1", "5e-324"), ("2", "1e-310")]),
        lines(&[("1", "0"), ("2", "0.0"), ("3", "-0.0")]),
        lines(&[("1", "1.0"), ("2", "1.0000000000000002")]),
        lines(&[
            ("1", "\"NaN\""),
            ("2", "\"inf\""),
            ("3", "null"),
            ("4", "[1]"),
            ("5", "{}"),
            ("6", "true"),
            ("7", "2"),
        ]),
        lines(&[("9007199254740992", "1"), ("9007199254740993", "2"), ("9007199254740994", "3")]),
        lines(&[("9007199254740993", "1")]),
        lines(&[("-5", "1"), ("1e300", "2"), ("-1e308", "3"), ("1e308", "4")]),
        lines(&[("18446744073709551615", "1"), ("-9223372036854775808", "2")]),
        lines(&[("3", "1"), ("2", "2"), ("2", "3"), ("1", "4")]),
        lines(&[("\"1\"", "1"), ("2", "2")]),
    ]
    .into_iter()
    .enumerate()
    {
        folder.write("r/run.json", "{}");
        folder.write("r/metrics.jsonl", &text);
        folder.nepa(&["plot", "r", "--smooth", "3", "--out", "o.svg"]).succeeds();
        let svg = folder.text("o.svg");
        assert!(svg.contains("loss") && !svg.contains("NaN") && !svg.contains("inf\""), "{i}: {text}");
        if i % 4 == 0 {
            folder.nepa(&["plot", "r", "--out", "o.png"]).succeeds();
        }
        if i < 4 {
            folder.nepa(&["report", "r"]).succeeds();
        }
    }
}

/// A loss that is NaN for a while is no straight line from the last finite value to the next.
#[test]
fn a_curve_breaks_where_a_value_is_not_finite() {
    let folder = Folder::new();
    let line = |s: i64, loss: Value| json!({ "step": s, "loss": loss });
    add_run(&folder, "r", "finished", (1..30).map(|s| line(s, json!(1.0 / s as f64))).collect());
    folder.nepa(&["plot", "r", "--out", "o.svg"]).succeeds();
    assert_eq!(pieces(&folder, "o.svg"), 1);
    let broken = |s: i64| if (13..18).contains(&s) { json!("NaN") } else { json!(1.0 / s as f64) };
    add_run(&folder, "r", "finished", (1..30).map(|s| line(s, broken(s))).collect());
    let said = folder.nepa(&["plot", "r", "--out", "o.svg"]);
    said.succeeds().prints(&["o.svg: loss\n"]).says(&["note: 5 values of `loss` are not finite"]);
    assert_eq!(pieces(&folder, "o.svg"), 2);
    shows(&texts(&folder, "o.svg"), &["loss (5 values of `loss` are not finite)"]);
    // At the end, and of the whole run.
    add_run(&folder, "r", "finished", vec![line(1, json!(2)), line(2, json!(1)), line(3, json!("inf"))]);
    folder.nepa(&["plot", "r"]).succeeds().says(&["note: 1 value of `loss` is not finite"]);
    add_run(&folder, "r", "finished", vec![line(1, json!("NaN")), line(2, json!("NaN"))]);
    folder.nepa(&["plot", "r"]).succeeds().says(&["note: 2 values of `loss` are not finite"]);
    // On a logarithmic axis, so does what is not positive.
    let norm = |s: i64| json!({ "step": s, "grad_norm": if s == 15 { 0.0 } else { (s as f64).exp() } });
    add_run(&folder, "r", "finished", (1..30).map(norm).collect());
    folder.nepa(&["plot", "r", "--out", "o.svg"]).succeeds();
    assert_eq!(pieces(&folder, "o.svg"), 2);
}

#[test]
fn a_scripts_curve_breaks_there_too_and_a_single_point_is_a_dot() {
    let folder = Folder::new();
    let script = r#"
        let nan = 0.0 / 0.0;
        plot::lines("one.svg", #{ a: [[1, 2]] }, #{});
        plot::lines("whole.svg", #{ a: [[1, 2], [2, 3], [3, 1], [4, 2], [5, 2]] }, #{});
        plot::lines("gap.svg", #{ a: [[1, 2], [2, 3], [3, nan], [4, 2], [5, 2]] }, #{});
        plot::lines("none.svg", #{ a: [[1, nan]] }, #{});
    "#;
    folder.run(script).fails(1).says(&["no point of any series is finite", "recipe.rhai:6:"]);
    let count = |file: &str, what: &str| folder.text(file).matches(what).count();
    assert_eq!([count("one.svg", "<circle"), count("gap.svg", "<circle")], [1, 0]);
    assert_eq!([pieces(&folder, "whole.svg"), pieces(&folder, "gap.svg")], [1, 2]);
}

#[test]
fn many_lines_phases_and_returns_are_drawn_in_one_picture() {
    let folder = Folder::new();
    // Back and forth with every line, and a phase for each line: neither may take a time or a picture that grows with
    // the square of the lines.
    let back: String = (0..60_000).map(|i| format!("{{\"step\":{},\"loss\":1}}\n", i % 2)).collect();
    let phases: String = (0..20_000).map(|i| format!("{{\"phase\":\"p{i}\",\"step\":1,\"loss\":1}}\n")).collect();
    folder.write("back/metrics.jsonl", back);
    folder.write("phases/metrics.jsonl", phases);
    let name = "x".repeat(1 << 20);
    folder.write(
        "long/metrics.jsonl",
        format!("{{\"phase\":\"{name}\",\"step\":1,\"loss\":1}}\n{{\"step\":2,\"loss\":1}}\n"),
    );
    folder.nepa(&["plot", "back", "--out", "back.svg"]).succeeds();
    assert!(folder.text("back.svg").len() < 1 << 20);
    let said = folder.nepa(&["plot", "phases", "--out", "phases.svg"]);
    said.succeeds().says(&["note: 19800 of phases's phases are left out: 200 are drawn"]);
    folder.nepa(&["plot", "phases", "--phase", "p19999", "--out", "one.svg"]).succeeds();
    folder.nepa(&["plot", "long", "--out", "long.svg"]).succeeds();
    assert!(folder.text("long.svg").len() < 1 << 20);
}

#[test]
fn what_cannot_be_drawn_is_told_with_its_limit() {
    let folder = Folder::new();
    let calls = [
        (
            "plot::bars(\"b.png\", [[\"x\", 1e308, 0.0]], #{})",
            "bar `x`: expected numbers from -1e150 to 1e150, found 1",
        ),
        (
            "let b = []; b.pad(2000, [\"x\", 1, 0]); plot::bars(\"b.png\", b, #{})",
            "at most 1000 bars are drawn, found 2000",
        ),
        (
            "plot::images(\"i.png\", zeros([1, 3, 4, 4]), #{ columns: 4294967296, zoom: 32, low: -1e308, high: 1e308 })",
            "finite low < high",
        ),
        (
            "plot::images(\"i.png\", zeros([1, 1, 1, 1]).expand([100_000, 1, 64, 64]), #{ columns: 1000, zoom: 32 })",
            "more than 65536 a side",
        ),
        ("plot::images(\"i.png\", zeros([1, 3, 4, 4]).to(\"bool\"), #{ columns: 4294967296 })", "done"),
        ("plot::images(\"i.png\", zeros([0, 3, 4, 4]), #{})", "expected images [B, 1 or 3, H, W], found [0, 3, 4, 4]"),
        ("plot::bars(\"b.png\", [[\"x\", 1, 0.5], [\"y\", 0, 0]], #{ width: 100, height: 100 })", "done"),
        ("plot::lines(\"l.png\", #{ a: [[-1e308, 1e308], [1e308, -1e308], [0, 0.0 / 0.0]] }, #{})", "done"),
        ("plot::overlays(\"o.png\", zeros([3, 4, 4]), [#{ map: tensor([[3e38, -3e38]]) }], #{})", "done"),
    ];
    let script: String = calls
        .map(|(call, _)| format!("try {{ {call}; print(\"done\"); }} catch (e) {{ print(e.message); }}\n"))
        .concat();
    let said = folder.run(&script);
    said.succeeds();
    for (line, (call, piece)) in said.stdout.lines().zip(calls) {
        assert!(line.contains(piece), "{call}: `{line}` should hold `{piece}`");
    }
    assert_eq!(said.stdout.lines().count(), calls.len(), "{said}");
}
