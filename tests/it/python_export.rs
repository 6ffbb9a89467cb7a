//! `python -m nepa.export`: its files compute what the model computes, in programs that know nothing of nepa.

use crate::common::*;
use crate::python_package::{python, shell};

/// A random picture and what nepa computes of it.
const CLASSIFY: &str = r#"
    let m = checkpoint::load("FOLDER");
    m.train(false);
    let pixels = (rand([5, 3, 56, 56]) * 255.0).floor();
    checkpoint::save_tensors(#{ pixels: pixels, logits: m.forward((pixels / 255.0 - 0.5) / 0.5) }, "io.safetensors");
"#;

/// Runs the exported files in a Python that has no such package any more.
const RUN_EXPORTED: &str = r#"
import sys, torch
from importlib.util import find_spec
from pathlib import Path
from nepa.tensor_file import read_tensors
io = read_tensors(Path("io.safetensors"))
pixels, logits = io["pixels"].to(torch.uint8), io["logits"]
sys.path.remove(sys.argv[1])
for name in [name for name in sys.modules if name.split(".")[0] == "nepa"]:
    del sys.modules[name]
assert find_spec("nepa") is None
for batch in [0, 1, 5]:
    found = torch.export.load("m.pt2").module()(pixels[:batch])
    assert found.dtype == torch.float32 and found.shape == (batch, 8)
    assert ((found - logits[:batch]).abs() < 0.05).all(), "float16"
    if find_spec("onnxruntime"):
        import onnxruntime
        session = onnxruntime.InferenceSession("m.onnx")
        [found] = session.run(["logits"], {"images": pixels[:batch].numpy()})
        assert found.shape == (batch, 8) and ((torch.from_numpy(found) - logits[:batch]).abs() < 1e-4).all()
        facts = session.get_modelmeta().custom_metadata_map
        assert facts["image_size"] == "56" and facts["mean"] == facts["std"] == "[0.5, 0.5, 0.5]"
        assert abs(float(facts["rescale_factor"]) * 255 - 1) < 1e-9
if find_spec("onnxruntime"):
    [output] = onnxruntime.InferenceSession("e.onnx").get_outputs()
    assert output.shape == ["batch", 17, 32], output.shape
"#;

/// What is not exported, and what cannot be compared.
const NOT_EXPORTED: &str = r#"
import contextlib, io, json, os, shutil, sys
from pathlib import Path
import nepa.program as program
from nepa.export import main
model = sys.argv[1]

def refused(arguments, *words):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(arguments.split()) == 1, arguments
    error, hint = said.getvalue().splitlines()
    assert error.startswith("error: ") and hint.startswith("hint: "), said.getvalue()
    assert all(word in said.getvalue() for word in words), said.getvalue()

# Files that compute something else.
program.write_torch = lambda model, path: path.write_bytes(b"x")
for value in [0.5, float("nan")]:
    program.load_torch = lambda path: lambda images: images.new_full([len(images), 8], value, dtype=float)
    refused(f"{model} wrong.pt2", "the exported program differs from the model by ", "please report it")
    refused(f"{model} wrong.pt2 --dtype float16", "more than 2e-02", "export it in float32")
assert not [name for name in os.listdir() if "wrong" in name or "partial" in name]

refused("nowhere m.onnx", "nowhere does not exist", "give a model folder")
refused(". x.pt", "x.pt: expected a name that ends in .onnx or .pt2")
refused(". x.pt2 --to onnx", "x.pt2: expected a name that ends in .onnx")
refused(". x.onnx --to onx", 'unknown format "onx"; did you mean `onnx`?')
refused(". no/x.onnx", "no is not a folder")
refused(f"{model} x.onnx --dtype float61", 'unknown dtype "float61"; did you mean `float16`?')
refused(f"{model} x.onnx --part head", 'unknown part "head"', '"encoder" or "classifier"')
refused(f"{model} x.onnx --weights emma", 'unknown weights "emma"; did you mean `ema`?')

# A model of images that are no pictures.
shutil.copytree(model, "floats")
file = Path("floats/preprocessor_config.json")
keys = json.loads(file.read_text())
floats = {"do_rescale": False, "image_mean": [1200.0] * 3, "image_std": [800.0] * 3}
file.write_text(json.dumps(keys | floats))
refused("floats x.onnx --preprocess", "was not trained on pictures of 8 bits", "leave --preprocess out")
file.write_text(json.dumps(keys | {"do_rescale": False}))
refused("floats x.onnx", "do_rescale is false, but image_mean", "set do_rescale to true")

sys.modules["onnxruntime"] = None
assert main([model, "m.onnx", "--part", "encoder"]) == 0
"#;

#[test]
fn exported_files_compute_what_the_model_computes() {
    let Some(python) = python() else { return };
    let folder = Folder::on_cpu();
    let model = repository("tests/fixtures/reference/classifier").display().to_string();
    folder.run(&CLASSIFY.replace("FOLDER", &model)).succeeds();
    let export = |args: &str| shell(&folder, python, &format!("$python -m nepa.export {args}"));
    export(&format!("{model} m.onnx --preprocess"))
        .succeeds()
        .prints(&["wrote m.onnx (0.2 MB): images [batch, 3, 56, 56] uint8 -> logits [batch, 8] float32"]);
    export(&format!("{model} m.pt2 --preprocess --dtype float16"))
        .succeeds()
        .prints(&["wrote m.pt2", "verified on random images: the largest difference from the model is "]);
    export(&format!("{model} e.onnx --part encoder")).succeeds();
    folder.write("run.py", RUN_EXPORTED);
    // PyTorch warns of its own reading.
    shell(&folder, python, "$python -W ignore run.py $PYTHONPATH").succeeds();
}

#[test]
fn what_differs_from_the_model_is_not_exported() {
    let Some(python) = python() else { return };
    let folder = Folder::new();
    folder.write("not.py", NOT_EXPORTED);
    let model = repository("tests/fixtures/reference/classifier").display().to_string();
    let said = shell(&folder, python, &format!("$python not.py {model}"));
    said.succeeds();
    said.prints(&["-> last_hidden_state [batch, 17, 32] float32\nnot verified: onnxruntime is not installed"]);
    let said = shell(&folder, python, "$python -m nepa.export --prepro");
    said.fails(1)
        .says(&["error: the following arguments are required: model, dest\nhint: python -m nepa.export --help"]);
}
