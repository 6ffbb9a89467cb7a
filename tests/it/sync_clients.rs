//! `nepa sync` with the real clients, offline, as far as the Python of the tests has them: what they have got is read
//! back with them.

use crate::common::*;
use crate::sync::{finished, python_with};
use serde_json::{Value, json};

/// Sends a run twice, with lines that come in between; gives what a script of Python then finds. None if the Python has
/// no such client.
fn sent(client: &str, modules: &[&str], env: &[(&str, &str)], args: &[&str], read: &str) -> Option<(Folder, Value)> {
    let Some(python) = python_with(modules) else {
        println!("skipped: there is no Python with {}; NEPA_TEST_PYTHON may name one", modules.join(", "));
        return None;
    };
    let folder = finished();
    folder.write(
        "runs/a/system.jsonl",
        "{\"time\": 1000, \"cpu_percent\": 5.5}\n{\"time\": 1015, \"cpu_percent\": 6.5}\n",
    );
    let mut env: Vec<(&str, String)> = env.iter().map(|(name, value)| (*name, value.to_string())).collect();
    for (_, value) in &mut env {
        *value = value.replace("HERE", &folder.path("").display().to_string());
    }
    let all = [&["sync", "runs/a", "--to", client, "--python", &python][..], args].concat();
    let sync = || {
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        folder.nepa_with(&env, &all)
    };
    sync().succeeds().says(&["runs/a: sending to"]);
    let more = folder.text("runs/a/metrics.jsonl") + "{\"phase\": \"train\", \"step\": 40, \"loss\": 9}\n";
    folder.write("runs/a/metrics.jsonl", more);
    sync().succeeds().says(&["runs/a: going on sending to", "1 line sent; the run has finished"]);
    folder.write("read.py", read);
    let mut command = std::process::Command::new(&python);
    command.current_dir(folder.path("")).arg("read.py").envs(env);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().last().unwrap_or_default();
    let found = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {text}"));
    Some((folder, found))
}

/// The numbers of the run, by name: [step, value].
fn expected() -> Value {
    json!({
        "alone": [[1, 2.5]],
        "knn/k": [[1, 5.0], [2, 7.0]],
        "knn/top1": [[1, 85.5], [2, 87.5]],
        "system/cpu_percent": [[0, 5.5], [15, 6.5]],
        "train/extra": [[30, 7.0]],
        "train/loss": [[10, 0.25], [20, 0.125], [30, 0.25 / 3.0], [40, 9.0]],
    })
}

/// A `.wandb` file is a log of LevelDB: blocks of 32 KiB with records of checksum, length, kind and content. Both sessions
/// are read, as `wandb sync` sends them.
const WANDB: &str = r#"
import glob, json, struct
from wandb.proto import wandb_internal_pb2

def records(data):
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""

found = {"ids": [], "numbers": {}, "rows": [], "media": {}, "summary": {}, "config": {}, "axes": {}, "artifacts": [], "exits": []}
for path in sorted(glob.glob("wandb/offline-run-*/*.wandb")):
    for record in records(open(path, "rb").read()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["ids"].append([record.run.run_id, record.run.project, record.run.display_name])
            found["config"].update({u.key: json.loads(u.value_json) for u in record.run.config.update})
        elif kind == "metric":
            found["axes"][record.metric.name] = record.metric.step_metric
        elif kind == "history":
            row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            if row["_step"] not in found["rows"]:
                found["rows"].append(row["_step"])
            for name, value in row.items():
                axis = found["axes"].get(name)
                if name.endswith("/_type"):
                    found["media"][name[:-6]] = value
                elif axis:
                    found["numbers"].setdefault(name, []).append([row[axis], float(value)])
        elif kind == "summary":
            found["summary"].update({i.key: json.loads(i.value_json) for i in record.summary.update if i.key[:6] == "result"})
        elif kind == "artifact":
            found["artifacts"].append([record.artifact.type, sorted(e.path for e in record.artifact.manifest.contents)])
        elif kind == "exit":
            found["exits"].append(record.exit.exit_code)
print(json.dumps(found))
"#;

#[test]
fn wandb_gets_a_run() {
    let env = [("WANDB_MODE", "offline"), ("WANDB_DIR", "HERE"), ("WANDB_PROJECT", "of-env")];
    let Some((folder, found)) = sent("wandb", &["wandb"], &env, &["--model"], WANDB) else { return };
    let id = folder.json("runs/a/sync-wandb.json")["id"].clone();
    assert_eq!(found["ids"], json!([[id, "of-env", "a"], [id, "of-env", "a"]]));
    assert_eq!(found["numbers"], expected());
    assert_eq!((&found["axes"]["knn/top1"], &found["axes"]["alone"]), (&json!("knn/step"), &json!("step")));
    // The second session goes on with the numbers of rows.
    let rows: Vec<i64> = found["rows"].as_array().unwrap().iter().map(|row| row.as_i64().unwrap()).collect();
    assert!(rows.is_sorted_by(|a, b| a < b), "{rows:?}");
    let media = json!({
        "pictures/pic": "image-file", "pictures/plots/loss": "html-file", "tables/evaluation/ema/per_class": "table-file",
        "tables/rows": "table-file", "tables/scores": "table-file",
    });
    for (name, kind) in media.as_object().unwrap() {
        assert_eq!(found["media"][name], *kind, "{name} of {}", found["media"]);
    }
    assert_eq!((&found["config"]["lr"], &found["summary"]["result/top1"]), (&json!(0.25), &json!(64.5)));
    let models: Vec<&Value> = found["artifacts"].as_array().unwrap().iter().filter(|a| a[0] == "model").collect();
    assert_eq!(models, [&json!(["model", folder.names("runs/a/model")])]);
    assert_eq!(found["exits"], json!([0, 0]));
}

const MLFLOW: &str = r#"
import json
from mlflow import MlflowClient
client = MlflowClient()
experiment = client.get_experiment_by_name("digits")
[run] = client.search_runs([experiment.experiment_id])
files = lambda path: [f.path for f in client.list_artifacts(run.info.run_id, path)]
history = lambda name: [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, name)]
names = [name for name in run.data.metrics if not name.startswith(("result", "evaluation"))]
table = open(client.download_artifacts(run.info.run_id, "tables/scores.json")).read()
print(json.dumps({
    "id": run.info.run_id, "name": run.info.run_name, "status": run.info.status, "params": run.data.params,
    "numbers": {name: history(name) for name in sorted(names)}, "results": run.data.metrics, "note": run.data.tags["result/note"],
    "pictures": files("pictures") + files("pictures/plots"), "model": files("model"), "table": json.loads(table),
    "seconds": run.info.end_time - run.info.start_time,
}))
"#;

#[test]
fn mlflow_gets_a_run() {
    let env = [("MLFLOW_TRACKING_URI", "file://HEREmlruns"), ("MLFLOW_ALLOW_FILE_STORE", "true")];
    let args = ["--project", "digits", "--name", "first", "--model"];
    let Some((folder, found)) = sent("mlflow", &["mlflow"], &env, &args, MLFLOW) else { return };
    assert_eq!((&found["id"], &found["name"]), (&folder.json("runs/a/sync-mlflow.json")["id"], &json!("first")));
    assert_eq!((&found["status"], &found["params"]["lr"]), (&json!("FINISHED"), &json!("0.25")));
    assert!((0..60_000).contains(&found["seconds"].as_i64().unwrap()), "{}", found["seconds"]);
    assert_eq!(found["numbers"], expected());
    assert_eq!((&found["results"]["result/top1"], &found["note"]), (&json!(64.5), &json!("good")));
    let pictures = json!(["pictures/pic.png", "pictures/plots", "pictures/plots/loss.svg"]);
    assert_eq!(found["pictures"], pictures);
    let model: Vec<String> = folder.names("runs/a/model").iter().map(|name| format!("model/{name}")).collect();
    assert_eq!(found["model"], json!(model));
    let table = json!({ "columns": ["name", "score", "n"], "data": [["a", 0.25, 1], ["b", 1.5, 2]] });
    assert_eq!(found["table"], table);
}

const TRACKIO: &str = r#"
import json, os, sqlite3
[path] = [os.path.join("trackio", name) for name in os.listdir("trackio") if name.endswith(".db")]
data = sqlite3.connect(path)
found = {"runs": data.execute("select distinct run_name from metrics").fetchall(), "numbers": {}, "media": {}, "results": {}}
for step, metrics in data.execute("select step, metrics from metrics order by id"):
    for name, value in json.loads(metrics).items():
        if isinstance(value, dict):
            found["media"][name] = value["_type"]
        elif name.startswith(("result", "evaluation")):
            found["results"][name] = value
        else:
            found["numbers"].setdefault(name, []).append([step, value])
[config] = data.execute("select config from configs").fetchall()
found["config"] = json.loads(config[0])
found["artifacts"] = [row[0] for row in data.execute("select type from artifacts")]
print(json.dumps(found))
"#;

#[test]
fn trackio_gets_a_run() {
    let env = [("TRACKIO_DIR", "HEREtrackio"), ("HF_HUB_OFFLINE", "1")];
    let Some((_, found)) = sent("trackio", &["trackio"], &env, &["--model"], TRACKIO) else { return };
    assert_eq!((&found["runs"], &found["config"]["lr"]), (&json!([["a"]]), &json!(0.25)));
    assert_eq!(found["numbers"], expected());
    assert_eq!(found["results"]["result/top1"], 64.5);
    for (name, kind) in [("pictures/pic", "image"), ("pictures/plots/loss", "html"), ("tables/scores", "table")] {
        assert_eq!(found["media"][name], format!("trackio.{kind}"), "{}", found["media"]);
    }
    assert_eq!(found["artifacts"], json!(["model"]));
}

const TENSORBOARD: &str = r#"
import json, os
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
[folder] = os.listdir("events")
found = EventAccumulator(os.path.join("events", folder)).Reload()
image = found.Images("pictures/pic")[0]
text = lambda tag: found.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
scalars = {tag: [[e.step, e.value] for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
print(json.dumps({
    "folder": folder, "numbers": scalars, "image": [image.width, image.height, len(image.encoded_image_string)],
    "config": text("config"), "table": text("tables/scores"), "summary": text("summary"),
    "plugin": found.SummaryMetadata("config").plugin_data.plugin_name,
    "times": [e.wall_time for e in found.Scalars("system/cpu_percent")],
}))
"#;

#[test]
fn tensorboard_gets_a_run() {
    let Some((folder, found)) = sent("tensorboard", &["tensorboard"], &[], &["--project", "events"], TENSORBOARD)
    else {
        return;
    };
    assert_eq!((&found["folder"], &found["times"]), (&json!("a"), &json!([1000.0, 1015.0])));
    for (name, points) in expected().as_object().unwrap() {
        let found = found["numbers"][name].as_array().unwrap_or_else(|| panic!("no {name}"));
        let points = points.as_array().unwrap();
        assert_eq!(found.len(), points.len(), "{name}");
        for (found, expected) in found.iter().zip(points) {
            // It stores 32 bits.
            let same = found[1].as_f64().unwrap() as f32 == expected[1].as_f64().unwrap() as f32;
            assert!(found[0] == expected[0] && same, "{name}: {found}, expected {expected}");
        }
    }
    assert_eq!(found["numbers"].as_object().unwrap().len(), expected().as_object().unwrap().len());
    let image = image::open(folder.path("runs/a/pic.png")).unwrap();
    let size = folder.read("runs/a/pic.png").len();
    assert_eq!(found["image"], json!([image.width(), image.height(), size]));
    assert_eq!(found["table"], "| name | score | n |\n| --- | --- | --- |\n| a | 0.25 | 1 |\n| b | 1.5 | 2 |");
    assert!(found["config"].as_str().unwrap().contains("| lr | 0.25 |") && found["plugin"] == "text");
    assert!(found["summary"].as_str().unwrap().contains("| result/top1 | 64.5 |"), "{}", found["summary"]);
    // Where the folder is another one, nothing is written there.
    let python = python_with(&["tensorboard"]).unwrap();
    let elsewhere = ["sync", "runs/a", "--to", "tensorboard", "--python", &python, "--project", "other"];
    folder.nepa(&elsewhere).fails(1).says(&["was sent to ", "events/a before, not to ", "--project"]);
    assert!(!folder.path("other").exists());
}
