//! A saved model folder in Python's own `safetensors`, where the machine's python3 has it.

use crate::common::*;
use safetensors::SafeTensors;
use std::process::Command;

/// Prints {name: [dtype, shape, sum]} and the metadata's format.
const READ: &str = r#"
import json, sys
from safetensors import safe_open
with safe_open(sys.argv[1], framework="numpy") as f:
    found = {}
    for name in f.keys():
        t = f.get_tensor(name)
        found[name] = [str(t.dtype), list(t.shape), float(t.astype("float64").sum())]
    print(json.dumps({"format": f.metadata()["format"], "tensors": found}))
"#;

#[test]
fn a_saved_model_folder_opens_in_pythons_safetensors() {
    let python = |args: &[&str]| Command::new("python3").args(args).output();
    match python(&["-c", "import safetensors, numpy"]) {
        Ok(output) if output.status.success() => {}
        _ => return println!("skipped: there is no python3 with safetensors and numpy"),
    }
    let folder = Folder::new();
    folder.run(&format!("checkpoint::save(checkpoint::load(\"{}\"), \"m\");", golden("gelu-affine"))).succeeds();
    let path = folder.path("m/model.safetensors").display().to_string();
    let output = python(&["-c", READ, &path]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["format"], "pt");

    // What the reference wrote, read here.
    let original = std::fs::read(format!("{}/model.safetensors", golden("gelu-affine"))).unwrap();
    let original = SafeTensors::deserialize(&original).unwrap();
    assert_eq!(found["tensors"].as_object().unwrap().len(), original.len());
    for (name, view) in original.tensors() {
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)));
        let tensor = &found["tensors"][&name];
        assert_eq!(tensor[0], "float32", "{name}");
        assert_eq!(tensor[1], serde_json::json!(view.shape()), "{name}");
        assert_close(&[tensor[2].as_f64().unwrap()], &[values.sum()], 1e-9);
    }
}
