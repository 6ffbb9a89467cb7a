//! Evaluation by several processes: every result is that of one process, for any numbers of images and processes.

use crate::common::{Folder, fashion};
use serde_json::Value;

/// Judges 23 images, 3 images (fewer than 4 processes), and 23 of which some have several right labels and some none;
/// and the features of 61 and 23, and of 61 and 3 images.
const SCRIPT: &str = r#"
    import "std/evaluate" as evaluate;
    import "std/features" as features;
    let config = #{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 8, num_hidden_layers: 2,
                    num_attention_heads: 2, intermediate_size: 16, num_labels: 10, drop_path_prob: 0.5 };
    let models = #{ raw: nn::vit_nepa(config), ema: nn::vit_nepa(config) };
    for model in models.values() {
        for p in model.named_parameters().values() { p.copy_(p + randn(p.shape) * 0.3); }
    }
    let train = data::idx(param("data", (), ""), "train").take(61);
    let test = data::idx(param("data", (), ""), "test").take(23);
    let transforms = [transform::normalize(0.5, 0.5)];

    let real = [];
    for i in 0..test.len {
        real.push(if i % 5 == 1 { [] } else if i % 3 == 0 { [i % 10, (i + 4) % 10] } else { [i % 10] });
    }
    let few = test.take(3);
    let cases = [[test, #{ predictions: "all.csv" }], [few, #{ predictions: "few.csv" }], [test, #{ real: real }]];
    let written = #{};
    let checked = [];                                  // numbers that have to be the same in all processes
    for (judged, i) in cases {
        let found = evaluate::classify_each(models, judged[0], #{ transforms: transforms, batch: 4 } + judged[1]);
        for name in models.keys() {
            if !models[name].training { throw "the mode was not put back"; }
            let one = found[name];
            checked += [one.top1, one.top5, one.loss, one.ece, one.images] + one.calibration.map(|bin| bin.confidence)
                + one.samples.map(|sample| sample.index);
        }
        if i == 0 { evaluate::save(found, test); }
        written[`evaluation${i}`] = found;
    }

    let model = models.raw;
    for (held_out, i) in [test, few] {
        let options = #{ block: [0, 1, "last"], transforms: transforms, batch: 4 };
        let sets = features::extract(model, held_out, options);
        written[`features${i}`] = sets.map(|set| set.features.to_array());
        written[`labels${i}`] = sets.map(|set| set.labels.to_array());
        let knn = features::knn(model, train, held_out, options + #{ k: [1, 5], chunk: 7 });
        written[`knn${i}`] = knn.map(|one| [one.by_k, one.predictions.to_array()]);
        let probe = features::linear_probe(model, train, held_out, options + #{ lr: [1e-2, 3e-2], steps: 20 });
        written[`probe${i}`] = probe.map(|one| [one.top1, one.lr, one.rates, one.predictions.to_array()]);
        let online = features::online(model, train, #{
            held_out: held_out, transforms: transforms, images: 40, steps: 20,
        });
        written[`online${i}`] = [online.knn_top1, online.probe_top1];
        for set in sets { checked += set.features.reshape([-1]).to_array() + set.labels.to_array(); }
        for one in knn + probe { checked += one.predictions.to_array(); }
    }
    run::write_json("rest.json", written);
    let all = dist::all_gather(tensor(checked));
    print(all.len());
    for theirs in all { if !theirs.equal(all[0]) { throw "the processes have different results"; } }
"#;

fn judged(processes: usize) -> Folder {
    let folder = Folder::new();
    let (data, count) = (format!("data={}", fashion()), processes.to_string());
    let mut args = vec!["--out", "run", "--seed", "7", "--set", &data];
    if processes > 1 {
        args.extend(["--nproc", &count, "--dist-timeout", "60"]);
    }
    let said = folder.run_with(SCRIPT, &args);
    said.succeeds();
    assert_eq!(said.stdout, format!("{processes}\n"), "{said}");
    folder
}

/// The same, floats to 1e-6 of them.
fn assert_same(found: &Value, expected: &Value, at: &str) {
    match (found, expected) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{at}");
            a.iter().for_each(|(key, value)| assert_same(value, &b[key], &format!("{at}.{key}")));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{at}");
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| assert_same(a, b, &format!("{at}[{i}]")));
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{at}: {a}, expected {b}");
        }
        _ => assert_eq!(found, expected, "{at}"),
    }
}

/// The cells of a table, numbers as numbers.
fn cells(csv: &str) -> Value {
    let cell = |text: &str| text.parse::<f64>().map_or_else(|_| Value::from(text), Value::from);
    csv.lines().map(|line| line.split(',').map(cell).collect::<Value>()).collect()
}

#[test]
fn any_number_of_processes_finds_what_one_finds() {
    let alone = judged(1);
    let expected = alone.json("run/rest.json");
    for (case, images) in [("evaluation0", 23), ("evaluation1", 3), ("evaluation2", 18)] {
        assert_eq!(expected[case]["raw"]["images"], images);
    }
    for processes in [2, 3, 4] {
        let folder = judged(processes);
        for file in ["run/rest.json", "run/evaluation.json"] {
            assert_same(&folder.json(file), &alone.json(file), &format!("{processes} processes, {file}"));
        }
        for file in ["run/all-raw.csv", "run/all-ema.csv", "run/few-raw.csv"] {
            assert_same(&cells(&folder.text(file)), &cells(&alone.text(file)), &format!("{processes}, {file}"));
        }
        assert_eq!(folder.names("run/samples"), alone.names("run/samples"));
    }
}
