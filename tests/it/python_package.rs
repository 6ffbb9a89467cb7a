//! The Python package `nepa`, from its source: what it reads of runs, models and embeddings is what nepa has written, and
//! its models compute what nepa's do. What it exports: `python_export`.

use crate::common::*;
use std::process::Command;
use std::sync::OnceLock;

/// A Python with PyTorch and numpy: $NEPA_TEST_PYTHON, or python3; `None` if it lacks them.
pub fn python() -> Option<&'static str> {
    static PYTHON: OnceLock<Option<String>> = OnceLock::new();
    let found = PYTHON.get_or_init(|| {
        let python = std::env::var("NEPA_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
        has(&python, &["torch", "numpy"]).then_some(python)
    });
    if found.is_none() {
        println!("skipped: there is no python3 (or NEPA_TEST_PYTHON) with torch and numpy");
    }
    found.as_deref()
}

/// Whether a Python has packages, which are not imported.
pub fn has(python: &str, packages: &[&str]) -> bool {
    let find = "import importlib.util as i, sys; sys.exit(not all(i.find_spec(name) for name in sys.argv[1:]))";
    Command::new(python).args(["-c", find]).args(packages).output().is_ok_and(|output| output.status.success())
}

/// Runs a line of the shell in which "$python" is the Python, with the package on its path and one thread.
pub fn shell(folder: &Folder, python: &str, line: &str) -> Said {
    let path = repository("python").display().to_string();
    let environment =
        format!("export PYTHONPATH='{path}' PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 python='{python}'");
    // The libraries of the tests are not those of Python's PyTorch.
    folder.shell(&format!("unset LD_LIBRARY_PATH; {environment}; {line}")).finish()
}

/// Runs a Python script in a folder; it fails with an assertion.
#[track_caller]
fn script(folder: &Folder, python: &str, text: &str) {
    folder.write("script.py", text);
    shell(folder, python, "$python script.py").succeeds();
}

/// Saves models with random weights, images, and all that nepa computes of them: first the golden ones, then those of
/// random configurations.
const MAKE: &str = r#"
fn keep(m, name) {
    m.train(false);
    let c = m.config;
    let images = randn([2, c.num_channels, c.image_size, c.image_size]);
    let out = m.encode(images, #{ hidden_states: true, attentions: true });
    let all = #{ images: images, z: out.input_embedding, h: out.last_hidden_state, output: m.forward(images) };
    for (t, i) in out.hidden_states { all[`hidden_states.${i}`] = t; }
    for (t, i) in out.attentions { all[`attentions.${i}`] = t; }
    checkpoint::save_tensors(all, `${name}.io.safetensors`);
}

for (folder, i) in GOLDEN { keep(checkpoint::load(folder), `golden-${i}`); }
for i in 0..21 {
    let of = |list| list[(rand([1]).item() * list.len()).to_int()];
    let m = nn::vit_nepa(#{
        image_size: of.call([8, 12]), patch_size: of.call([2, 4]), num_channels: of.call([1, 3, 5]),
        hidden_size: of.call([16, 24]), num_hidden_layers: of.call([1, 2, 3]), num_attention_heads: of.call([1, 2]),
        intermediate_size: of.call([(), 20]), hidden_act: of.call(["gelu", "silu"]),
        use_gated_mlp: of.call([true, false]), qkv_bias: of.call([true, false]), qk_norm: of.call([true, true, false]),
        qk_norm_affine: of.call([true, false]), qk_norm_bias: of.call([true, false]),
        layerscale_value: of.call([(), 0.1]), layer_norm_eps: of.call([1e-12, 1e-3]),
        rope_theta: of.call([(), 100.0, 10.0]), is_causal: of.call([true, false]), num_labels: of.call([0, 5]),
        add_pooling_layer: of.call([true, false]), pos_embed_rescale: of.call([(), 2.0]), drop_path_prob: 0.2,
    } + if i < 20 { #{} } else { #{ hidden_size: 196, num_attention_heads: 1, rope_theta: 100.0 } });   // 4 / 196 rounds up
    let parameters = m.named_parameters();
    for name in parameters.keys() { no_grad(|| init::normal_(parameters[name], 0.1, 0.4)); }
    checkpoint::save(m, `random-${i}`);
    keep(m, `random-${i}`);
}
"#;

/// Computes the same in Python, from the folders and from other forms of some of them.
const COMPARE: &str = r#"
import sys, json, torch, nepa
from pathlib import Path
from nepa.tensor_file import read_tensors
torch.set_grad_enabled(False)

def other_forms(folder):
    "The same model as files of torch.save, one and two with an index."
    config = (folder / "config.json").read_text()
    tensors = read_tensors(folder / "model.safetensors")
    places = {name: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, name in enumerate(sorted(tensors))}
    for form in ["whole", "parts"]:
        Path(form).mkdir()
        Path(form, "config.json").write_text(config)
    nested = {"module." + name: tensor for name, tensor in tensors.items()}
    torch.save({"state_dict": nested, "step": 3, "optimizer": {0: torch.zeros(2)}}, "whole/pytorch_model.bin")
    Path("parts/pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    for file in set(places.values()):
        torch.save({name: t for name, t in tensors.items() if places[name] == file}, Path("parts", file))
    return [Path("whole"), Path("parts")]

def agrees_with_reference(folder, model):
    "What the reference itself computed of other images, without nepa in between; how many tensors it is."
    expected = read_tensors(folder / "io.safetensors")
    out = model.encode(expected["pixel_values"], attentions=True)
    found = {"input_embedding": out.input_embedding, "last_hidden_state": out.last_hidden_state, "logits": out.logits}
    # Its last hidden state is the final norm's output.
    found |= {f"hidden_states.{i}": t for i, t in enumerate([*out.hidden_states[:-1], out.last_hidden_state])}
    found |= {f"attentions.{i}": t for i, t in enumerate(out.attentions)}
    both = found.keys() & expected.keys()
    for name in both:
        assert (found[name] - expected[name]).abs().max() <= 1e-5, (folder, name)
    return len(both)

golden = [Path(folder) for folder in sys.argv[1:]]
print(sum(agrees_with_reference(folder, nepa.load(folder)) for folder in golden), "tensors of the reference")
cases = [(folder, f"golden-{i}") for i, folder in enumerate(golden)]
cases += [(Path(f"random-{i}"), f"random-{i}") for i in range(21)]
cases += [(folder, "random-3") for folder in other_forms(Path("random-3"))]
worst = 0
for folder, name in cases:
    expected = read_tensors(Path(f"{name}.io.safetensors"))
    images = expected.pop("images")
    model = nepa.load(folder)
    assert not model.training
    out, fused = model.encode(images, attentions=True), model.encode(images)
    found = {"z": out.input_embedding, "h": out.last_hidden_state, "output": model(images)}
    found |= {f"hidden_states.{i}": t for i, t in enumerate(out.hidden_states)}
    found |= {f"attentions.{i}": t for i, t in enumerate(out.attentions)}
    assert found.keys() == expected.keys(), (found.keys(), expected.keys())
    assert torch.allclose(out.last_hidden_state, fused.last_hidden_state, rtol=1e-4, atol=1e-5)
    for what, tensor in expected.items():
        difference = (found[what] - tensor).abs().max().item() / max(tensor.abs().max().item(), 1)
        assert difference <= 1e-5, (folder, what, difference)
        worst = max(worst, difference)
    encoder = nepa.load(folder, part="encoder")
    assert torch.equal(encoder(images), fused.last_hidden_state)
    assert model.config.num_labels == (0 if out.logits is None else out.logits.shape[1])
    torch.manual_seed(0)
    assert torch.equal(model.train()(images), model(images)), "it always computes as in evaluation"
print(f"{len(cases)} models within {worst:.1e}")
"#;

#[test]
fn models_compute_in_python_what_they_compute_here() {
    let Some(python) = python() else { return };
    let folder = Folder::on_cpu();
    let golden: Vec<String> = golden_names().iter().map(|name| golden(name)).collect();
    folder.run_with(&MAKE.replace("GOLDEN", &format!("{golden:?}")), &["--seed", "5"]).succeeds();
    folder.write("compare.py", COMPARE);
    let said = shell(&folder, python, &format!("$python compare.py {}", golden.join(" ")));
    said.succeeds().prints(&["47 tensors of the reference", "34 models within "]);
}

/// A run of two loops: pretraining, and a hand-written phase with numbers that JSON lacks.
const RUN: &str = r#"
    import "std/pretrain" as pretrain;
    let epochs = param("epochs", 3, "passes over the images");
    let some = [];
    for i in 0..40 { some.push(i); }
    let images = data::idx(data::example("fashion-mnist"), "train").subset(some);
    let model = nn::vit_nepa(#{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 16, num_hidden_layers: 1,
                                num_attention_heads: 2 });
    pretrain::fit(model, images, #{ epochs: epochs, batch: 20, lr: 1e-2, ema: 0.9, log_every: 1 });
    run::log(#{ phase: "after", none: 0.0 / 0.0, most: 1.0 / 0.0, least: -1.0 / 0.0, list: [1.5, 0.0 / 0.0], text: "NaN?" });
    model.train(false);
    let x = randn([2, 1, 28, 28]);
    checkpoint::save_tensors(#{ x: x, y: model.forward(x) }, run::path("io.safetensors"));
    #{ kept: 2, most: 1.0 / 0.0 }
"#;

const READ_RUN: &str = r#"
import json, math, sys, nepa
assert "torch" not in sys.modules
run = nepa.Run("runs/one")
assert (run.state, run.parameters, run.result) == ("finished", {"epochs": 3}, {"kept": 2, "most": math.inf}), run.about
assert run.recipe == open("recipe.rhai").read()
lines = run.lines()
logged = [json.loads(line) for line in open("runs/one/metrics.jsonl")]
assert lines[:-1] == logged[:-1] and len(run.lines("pretrain")) == 6
[after] = run.lines("after")
assert math.isnan(after["none"]) and (after["most"], after["least"], after["text"]) == (math.inf, -math.inf, "NaN?")
assert math.isnan(after["list"][1])
columns = run.columns()
assert columns["step"] == [1, 2, 3, 4, 5, 6, None] and columns["most"] == [None] * 6 + [math.inf]
try:
    assert run.metrics("pretrain")["loss"].tolist() == [line["loss"] for line in logged[:6]]
except nepa.NepaError as e:
    assert "-m pip install pandas" in e.hint, e

# As if it were still running: a line is half written, and its process holds the lock.
with open("runs/one/metrics.jsonl", "a") as file:
    file.write('{"phase": "pretrain", "lo')
assert len(run.lines()) == 7
about = run.about | {"state": "running"}
json.dump(about, open("runs/one/run.json", "w"))
assert nepa.Run("runs/one").state == "killed"
import fcntl
with open("runs/one/.lock") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert nepa.Run("runs/one").state == "running"
assert [run.path.name for run in nepa.runs()] == ["one"] and nepa.runs("runs")[0].parameters == {"epochs": 3}

[checkpoint] = run.checkpoints
assert (checkpoint.label, checkpoint.step) == ("pretrain", 6)
assert "torch" not in sys.modules
import torch
from nepa.tensor_file import read_tensors
io = read_tensors(run.path / "io.safetensors")
for path in ["runs/one", checkpoint, checkpoint.path / "model_raw"]:
    assert (nepa.load(path, weights="raw")(io["x"]) - io["y"]).abs().max() < 1e-5
assert (nepa.load("runs/one", weights="ema")(io["x"]) - io["y"]).abs().max() > 1e-4

def refused(words, f, *arguments, **named):
    try:
        f(*arguments, **named)
    except nepa.NepaError as e:
        assert all(word in str(e) for word in words), e
    else:
        raise AssertionError(f"{arguments} {named} are accepted")

refused(["holds raw and averaged weights", "weights=\"raw\""], nepa.load, "runs/one")
refused(["unknown weights \"emma\"; did you mean `ema`?"], nepa.load, "runs/one", weights="emma")
refused(["holds raw weights, but \"ema\""], nepa.load, checkpoint.path / "model_raw", weights="ema")
refused(["holds no classifier"], nepa.load, checkpoint.path / "model_raw", part="classifier")
refused(["runs/two does not exist", "runs/NAME"], nepa.Run, "runs/two")
refused(["is not a run", "runs/one"], nepa.Run, "runs")
refused(["nothing of the phase `pretrian`", "pretrain, after"], run.lines, "pretrian")
weights = checkpoint.path / "model_raw" / "model.safetensors"
content = bytearray(weights.read_bytes())
content[-1] ^= 1
weights.write_bytes(content)
refused(["model.safetensors is damaged: its checksum"], nepa.load, "runs/one", weights="raw")
with open("runs/one/metrics.jsonl", "a") as file:
    file.write("\n")
refused(["metrics.jsonl, line 8, is not JSON"], run.lines)
"#;

#[test]
fn a_run_is_read_in_python() {
    let Some(python) = python() else { return };
    let folder = Folder::on_cpu();
    folder.run_with(RUN, &["--out", "runs/one"]).succeeds();
    script(&folder, python, READ_RUN);
}

/// How pictures become inputs, and the logits, against what the reference's own evaluation computed.
const TRANSFORM: &str = r#"
import json, shutil, sys, torch, nepa
from pathlib import Path
from PIL import Image, ImageOps
reference = Path(sys.argv[1])
shutil.copytree(reference / "classifier", "model")
assert nepa.transform("model").size == (56, 56) and nepa.transform("model").crop is None
file = Path("model/preprocessor_config.json")
keys = json.loads(file.read_text())
expected = json.loads((reference / "evaluation.json").read_text())
model = nepa.load("model")
for name, size in [("base-float32", {"shortest_edge": 64}), ("large-float32", {"height": 58, "width": 58})]:
    file.write_text(json.dumps(keys | {"size": size, "resample": 3, "do_center_crop": True, "crop_size": 56}))
    prepare = nepa.transform("model")
    for picture, logits in expected[name]["logits"].items():
        image = ImageOps.exif_transpose(Image.open(reference / "images" / picture))
        with torch.no_grad():
            found = model(prepare(image)[None])[0]
        # Pillow 12 and 13 resize tall pictures in another order.
        limit = 0.1 if image.height > image.width else 1e-4
        assert (found - torch.tensor(logits)).abs().max() < limit, (name, picture)
# One number: both sides for ViT's processor, the shorter one for DINOv2's.
for processor, size in [("ViTFeatureExtractor", (30, 30)), ("BitImageProcessor", 30)]:
    file.write_text(json.dumps(keys | {"size": 30, "image_processor_type": processor}))
    assert nepa.transform("model").size == size, processor
# Any rescaling gives the same numbers; images that are no pictures of 8 bits are not taken.
prepare = nepa.transform("model").normalize
pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(3, 1, 1)
for changed in [{"rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": 1},
                {"do_rescale": False, "image_mean": 127.5, "image_std": 127.5}]:
    file.write_text(json.dumps(keys | changed))
    assert (nepa.transform("model").normalize(pixels) - prepare(pixels)).abs().max() < 1e-5, changed
for changed, words in [({"do_rescale": False}, "do_rescale is false, but image_mean"),
                       ({"rescale_factor": 1e-4}, "not those of pictures of 8 bits"),
                       ({"do_rescale": False, "image_mode": "unchanged"}, "not trained on pictures of 8 bits")]:
    file.write_text(json.dumps(keys | changed))
    try:
        nepa.transform("model")(image)
    except nepa.NepaError as e:
        assert words in str(e), e
    else:
        raise AssertionError(changed)
file.unlink()
try:
    nepa.transform("model")
except nepa.NepaError as e:
    assert "has no preprocessor_config.json" in str(e), e
else:
    raise AssertionError("it has no preprocessor_config.json")
"#;

#[test]
fn pictures_are_prepared_and_classified_in_python_as_by_the_reference() {
    let Some(python) = python().filter(|python| has(python, &["PIL"])) else {
        return println!("skipped: Python lacks Pillow");
    };
    let folder = Folder::new();
    folder.write("transform.py", TRANSFORM);
    let reference = repository("tests/fixtures/reference").display().to_string();
    shell(&folder, python, &format!("$python transform.py {reference}")).succeeds();
}

/// What cannot be loaded, each with what is said about it.
const REFUSED: &str = r#"
import json, shutil, sys, nepa
from pathlib import Path
golden, pickles = map(Path, sys.argv[1:])
config = json.loads((golden / "config.json").read_text())

def refused(*words, without=None, content=None, copied=None, **keys):
    "Loads the golden model with other keys of config.json, or other weights."
    shutil.rmtree("m", ignore_errors=True)
    shutil.copytree(golden, "m")
    changed = {name: value for name, value in (config | keys).items() if name != without}
    Path("m/config.json").write_text(json.dumps(changed))
    if content is not None:
        Path("m/model.safetensors").write_bytes(content)
    if copied is not None:
        Path("m/model.safetensors").unlink()
        shutil.copy(copied, "m/pytorch_model.bin")
    try:
        nepa.load("m")
    except nepa.NepaError as e:
        assert " m" in f" {e.message}" and all(word in str(e) for word in words), e
    else:
        raise AssertionError(f"{words}: it is loaded")

weights = (golden / "model.safetensors").read_bytes()
refused("unknown key `rope_thet`; did you mean `rope_theta`?", rope_thet=1.0)
refused("missing key `is_causal`", without="is_causal")
refused('hidden_act must be "gelu" or "silu", found "relu"', hidden_act="relu")
refused('hidden_size is "64", expected int', hidden_size="64")
refused("is_causal is 1, expected bool", is_causal=1)
refused("num_hidden_layers must be 0 to", num_hidden_layers=10**9)
refused("`hidden_dropout_prob` is 0.1, but only 0 is supported", hidden_dropout_prob=0.1)
refused("built by a script (main.rhai), which Python cannot run", model_type="nepa_script", script="main.rhai")
refused("has parts of its own (['encoder'])", model_type="nepa_parts", parts=["encoder"])
refused("model_type is 'vit'", model_type="vit")
refused("does not fit the model", "gate_proj.weight", "missing: ", use_gated_mlp=True)
refused("wrong shape: vit_nepa.encoder.layer.0.intermediate.up_proj.weight", intermediate_size=20)
refused("unexpected: vit_nepa.encoder.layer.2", num_hidden_layers=2)
refused("id2label names 2 classes, but classifier.weight has", id2label={"0": "a", "1": "b"})
import torch
from nepa.tensor_file import read_tensors
tensors = read_tensors(golden / "model.safetensors")
for value, words in [(tensors["classifier.bias"] * float("nan"), "holds NaN or infinite values"),
                     (torch.zeros(len(tensors["classifier.bias"]), dtype=torch.int8), "is int8")]:
    torch.save(tensors | {"classifier.bias": value}, "spoilt.bin")
    refused("the tensor `classifier.bias`", words, copied="spoilt.bin")
torch.save({"model": tensors, "model_ema": tensors}, "two.bin")
refused("holds several models", "`model.`, `model_ema.`", copied="two.bin")
refused("is not a complete safetensors file", "does not lie where the header says", content=weights[:-1])
refused("is not a complete safetensors file", content=weights[:5])
refused("is not a complete safetensors file", content=b"")
refused("cannot read m/pytorch_model.bin", copied=pickles / "evil.pt")
"#;

#[test]
fn what_is_no_model_of_this_kind_is_refused_in_python() {
    let Some(python) = python() else { return };
    let folder = Folder::new();
    folder.write("refused.py", REFUSED);
    let pickles = repository("tests/fixtures/pickle").display().to_string();
    let golden = golden("gelu-affine.classify-causal-last");
    shell(&folder, python, &format!("$python refused.py {golden} {pickles}")).succeeds();
}

/// Files as `nepa embed` describes them.
const EMBEDDINGS: &str = r#"
import json, sys, nepa, numpy as np
import pyarrow as pa, pyarrow.parquet as pq
assert "torch" not in sys.modules
rng = np.random.default_rng(0)
features = rng.normal(size=(5, 3)).astype(np.float32)
labels, names = [1, 0, None, 1, 0], ["a.png", "b,c.png", "d \"e\".png", "ü.png", "f.png"]
known = np.array([-1 if label is None else label for label in labels])

def write_parquet(path, rows):
    columns = {"name": pa.array(names[rows]), "label": pa.array(labels[rows], pa.int64()),
               "class_name": pa.array([None if l is None else f"class {l}" for l in labels[rows]]),
               "features": pa.FixedSizeListArray.from_arrays(pa.array(features[rows].ravel()), 3)}
    pq.write_table(pa.table(columns), path)

def same(found, rows=slice(0, 5)):
    assert found.features.dtype == np.float32 and np.array_equal(found.features, features[rows])
    assert found.labels.dtype == np.int64 and np.array_equal(found.labels, known[rows]) and found.names == names[rows]

write_parquet("all.parquet", slice(0, 5))
same(nepa.embeddings("all.parquet"))
parts = [f"some-0000{i}-of-00003.parquet" for i in range(3)]
for part, rows in zip(parts, [slice(0, 2), slice(2, 2), slice(2, 5)]):
    write_parquet(part, rows)
json.dump({"files": parts}, open("some.parquet.json", "w"))
same(nepa.embeddings("some.parquet"))
same(nepa.embeddings(parts[2]), slice(2, 5))

np.save("all.npy", features)
alone = nepa.embeddings("all.npy")
assert np.array_equal(alone.features, features) and alone.labels is None and alone.names is None
rows = [f'{json.dumps(name, ensure_ascii=False).replace(chr(92), chr(34))},{label},' for name, label in zip(names, known)]
open("all.npy.names.csv", "w").write("\n".join(["name,label,class_name", *rows]) + "\n")
same(nepa.embeddings("all.npy"))

for i, rows in enumerate([slice(0, 2), slice(2, 5)]):
    np.save(f"n-{i}.npy", features[rows])
open("n-0.npy.names.csv", "w").write("name,label,class_name\na,1,\nb,0,\n")
json.dump({"files": ["n-0.npy", "n-1.npy"]}, open("n.npy.json", "w"))

tensors = {"features": ("F32", features), "labels": ("I64", known)}
header, data = {"__metadata__": {"names": json.dumps(names), "class_names": '["zero", "one"]'}}, b""
for name, (dtype, values) in tensors.items():
    start, data = len(data), data + values.tobytes()
    header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [start, len(data)]}
header = json.dumps(header).encode()
open("all.safetensors", "wb").write(len(header).to_bytes(8, "little") + header + data)
same(nepa.embeddings("all.safetensors"))
labels[:] = [None] * 5
write_parquet("unlabelled.parquet", slice(0, 5))
assert nepa.embeddings("unlabelled.parquet").labels is None

pq.write_table(pa.table({"x": [1]}), "other.parquet")
np.save("flat.npy", features[0])
open("some.parquet.json", "w").write(json.dumps({"files": [*parts, "some-3.parquet"]}))
for path, words in [("al.parquet", "did you mean `all.parquet`?"), ("all.csv", "ends in .parquet or .safetensors or .npy"),
                    ("other.parquet", "cannot read other.parquet as embeddings"), ("flat.npy", "expected features [N, D], found [3]"),
                    ("some.parquet", "goes on with the files that are missing"), ("n.npy", "n-1.npy.names.csv missing")]:
    try:
        nepa.embeddings(path)
    except nepa.NepaError as e:
        assert words in str(e), e
    else:
        raise AssertionError(f"{path} is read")
assert "torch" not in sys.modules
"#;

#[test]
fn embeddings_are_read_in_python() {
    let Some(python) = python().filter(|python| has(python, &["pyarrow"])) else {
        return println!("skipped: Python lacks pyarrow");
    };
    script(&Folder::new(), python, EMBEDDINGS);
}
