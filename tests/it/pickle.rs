//! Files of `torch.save`: read as PyTorch reads them, with nothing in them run, and refused in words.

use crate::common::*;
use nepa::checkpoint::{TensorFile, tensors};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    repository("tests/fixtures/pickle").join(name)
}

/// The complaint about a file, with its hint.
fn complaint(path: &Path) -> String {
    match tensors::read(path) {
        Ok(file) => panic!("{} was read: {} tensors", path.display(), file.tensors.len()),
        Err(e) => format!("{}; {}", nepa::error::one_line(&e), nepa::error::hint_of(&e).unwrap_or_default()),
    }
}

#[track_caller]
fn refused(name: &str, pieces: &[&str]) {
    let text = complaint(&fixture(name));
    for piece in pieces.iter().chain([&name]) {
        assert!(text.contains(piece), "{name}: should say `{piece}`: {text}");
    }
}

#[test]
fn files_hold_what_pytorch_finds_in_them() {
    let twins = names_in(&fixture(""));
    let twins: Vec<&str> = twins.iter().filter_map(|name| name.strip_suffix(".safetensors")).collect();
    assert_eq!(twins.len(), 8);
    for name in twins {
        let found = tensors::read(&fixture(&format!("{name}.pt"))).unwrap();
        let expected = tensors::read(&fixture(&format!("{name}.safetensors"))).unwrap();
        let names = |file: &TensorFile| file.tensors.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "{name}");
        for ((tensor, a), (_, b)) in found.tensors.iter().zip(&expected.tensors) {
            assert_eq!((a.kind(), a.size()), (b.kind(), b.size()), "{name}: {tensor}");
            assert!(a.equal(b), "{name}: {tensor} has other values");
        }
    }
}

#[test]
fn a_shared_storage_is_held_once() {
    let file = tensors::read(&fixture("views.pt")).unwrap();
    let named = |name: &str| &file.tensors.iter().find(|(n, _)| n == name).unwrap().1;
    assert_eq!(named("whole").data_ptr(), named("turned").data_ptr());
    assert_eq!(named("turned").stride(), [1, 6]);
}

#[test]
fn what_is_no_tensor_is_left_out_and_told() {
    let file = tensors::read(&fixture("checkpoint.pt")).unwrap();
    let told = file.left_out().unwrap();
    for name in ["epoch", "best", "arguments.name", "arguments.size.0", "optimizer.groups.0.lr", "list.1.1", "bytes"] {
        assert!(told.contains(name), "{name}: {told}");
    }
    assert_eq!(tensors::read(&fixture("module.pt")).unwrap().left_out(), None, "_metadata is no value of a state dict");
    let said = Folder::new().nepa(&["inspect", &fixture("checkpoint.pt").display().to_string()]);
    said.succeeds().prints(&[
        "checkpoint.pt: 8 tensors",
        "left out: 14 values that are not tensors: epoch, best",
        "state_dict.0.weight",
        "[2, 3]",
    ]);
}

#[test]
fn a_script_reads_and_loads_them() {
    let folder = Folder::on_cpu(); // what is read from files is there
    for name in ["module.pt", "checkpoint.pt"] {
        folder.write(name, std::fs::read(fixture(name)).unwrap());
    }
    let said = folder.run(
        r#"
        print(checkpoint::tensors("checkpoint.pt").keys().filter(|k| k.starts_with("state_dict")));
        let net = nn::sequential([nn::linear(3, 2), nn::layer_norm(2)]);
        print(checkpoint::load_into(net, "module.pt").loaded);
        let again = nn::sequential([nn::linear(3, 2), nn::layer_norm(2)]);
        print(checkpoint::load_into(again, "checkpoint.pt").loaded);
        print(again.named_parameters()["0.weight"].equal(checkpoint::tensors("module.pt")["0.weight"]));
        "#,
    );
    let names = ["0.weight", "0.bias", "1.weight", "1.bias"];
    let nested: Vec<String> =
        ["0.bias", "0.weight", "1.bias", "1.weight"].iter().map(|n| format!("state_dict.{n}")).collect();
    said.succeeds().says(&["note: checkpoint.pt: left out 14 values that are not tensors: epoch"]);
    let expected = [serde_json::json!(nested), serde_json::json!(names), serde_json::json!(names), true.into()];
    assert_eq!(said.values(), expected);
}

#[test]
fn the_references_ema_and_older_model_folders_load() {
    let folder = Folder::new();
    let golden = golden("reference-one-layer");
    for (name, file) in [("new", "pytorch_model_ema.bin"), ("old", "pytorch_model.bin")] {
        folder.write(&format!("{name}/config.json"), std::fs::read(format!("{golden}/config.json")).unwrap());
        folder.write(&format!("{name}/{file}"), std::fs::read(fixture("pytorch_model_ema.bin")).unwrap());
    }
    let said = folder.run(&format!(
        r#"
        let expected = checkpoint::load("{golden}").named_parameters();
        for path in ["new/pytorch_model_ema.bin", "old", "old/pytorch_model.bin"] {{
            let found = checkpoint::load(path).named_parameters();
            for name in expected.keys() {{
                if !found[name].equal(expected[name]) {{ throw `${{path}}: ${{name}} differs`; }}
            }}
            print(found.len() == expected.len());
        }}
        "#
    ));
    assert_eq!(said.values(), [true, true, true]);
    folder.nepa(&["inspect", "old"]).succeeds().prints(&["old/pytorch_model.bin: ", "configuration:", "hidden_size"]);
    // An EMA is taken only where it is asked for.
    folder.run("checkpoint::load(\"new\");").fails(1).says(&["has no model.safetensors, and no pytorch_model.bin"]);
}

#[test]
fn code_is_refused_by_name_and_not_run() {
    for name in ["evil.pt", "evil4.pt"] {
        refused(name, &["it holds posix.system, which is not read"]);
        let folder = Folder::new();
        folder.write(name, std::fs::read(fixture(name)).unwrap());
        folder
            .run(&format!("checkpoint::tensors(\"{name}\");"))
            .fails(1)
            .at("recipe.rhai:1:13", &format!("checkpoint::tensors(\"{name}\");"));
        folder.nepa(&["inspect", name]).fails(1).says(&["posix.system, which is not read", "no code is run"]);
        assert_eq!(folder.names(""), [name, "recipe.rhai"], "nothing was run");
    }
    refused("whole-module.pt", &["torch.nn.modules.", "which is not read", "state_dict()"]);
}

#[test]
fn other_formats_of_pytorch_are_refused_in_words() {
    refused("legacy.pt", &["before version 1.6", "torch.save(torch.load("]);
    refused("script.pt", &["TorchScript", "state_dict()"]);
    refused("big-endian.pt", &["byte order \"big\"", "safetensors"]);
    refused("compressed.pt", &["compressed"]);
    refused("other.zip.pt", &["without a data.pkl"]);
    refused("missing-storage.pt", &["tensor `bias`", "data/1 is missing"]);
    refused("complex.pt", &["torch.ComplexFloatStorage", "dtype"]);
    refused("float8.pt", &["dtype that is not supported"]);
    refused("sparse.pt", &["sparse"]);
}

#[test]
fn what_is_no_file_of_pytorch_is_told_by_its_name_or_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let complaint_of = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        complaint(&path)
    };
    assert!(complaint_of("a.bin", b"").contains("a.bin (0 bytes) is not a torch.save file"));
    assert!(complaint_of("a.pt", b"hello").contains("begins 68 65 6c 6c 6f"));
    assert!(complaint_of("a.safetensors", b"").contains("not a complete safetensors file"));
    // The beginning counts more than the name.
    let plain = std::fs::read(fixture("plain.pt")).unwrap();
    std::fs::write(dir.path().join("b.safetensors"), plain).unwrap();
    assert_eq!(tensors::read(&dir.path().join("b.safetensors")).unwrap().tensors.len(), 2);
    std::fs::copy(fixture("plain.safetensors"), dir.path().join("c.bin")).unwrap();
    assert_eq!(tensors::read(&dir.path().join("c.bin")).unwrap().tensors.len(), 2);
    let said = Folder::new().nepa(&["inspect", &fixture("plan.pt").display().to_string()]);
    said.fails(1).says(&["plan.pt does not exist", "plain.pt?"]);
}

// ---- damaged files ----

/// Reads bytes as a file; an error must say which file, and panics are failures of the test.
fn try_read(bytes: &[u8]) -> Result<usize, String> {
    let path = Path::new("x.pt");
    match nepa::checkpoint::torch_file::read(path, bytes) {
        Ok(file) => Ok(file.tensors.len()),
        Err(e) => {
            let text = nepa::error::one_line(&e);
            assert!(text.contains("x.pt"), "{text}");
            Err(text)
        }
    }
}

#[test]
fn a_file_cut_short_anywhere_is_told() {
    for name in ["plain.pt", "module.pt"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        assert!(try_read(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(try_read(&whole[..length]).is_err(), "{name} cut to {length} bytes was read");
        }
    }
}

#[test]
fn a_file_with_any_byte_changed_is_read_or_told_and_never_panics() {
    let whole = std::fs::read(fixture("plain.pt")).unwrap();
    let expected = tensors::read(&fixture("plain.safetensors")).unwrap();
    for at in 0..whole.len() {
        for change in [0xff, 0x01, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            // What is read in spite of the change has right values: checksums guard the records.
            if let Ok(file) = nepa::checkpoint::torch_file::read(Path::new("x.pt"), &bytes) {
                for ((name, a), (other, b)) in file.tensors.iter().zip(&expected.tensors) {
                    assert!(name == other && a.size() == b.size() && a.equal(b), "byte {at} changed `{name}`");
                }
            }
        }
    }
}

#[test]
fn a_pickle_with_any_byte_changed_is_read_or_told_and_never_panics() {
    let files = ["plain.pt", "module.pt", "checkpoint.pt", "views.pt"];
    for name in files {
        let whole = std::fs::read(fixture(name)).unwrap();
        let start = whole.windows(2).position(|w| w == b"\x80\x02").unwrap();
        let end = start + whole[start..].windows(4).position(|w| w == b"PK\x07\x08").unwrap();
        let pickle = &whole[start..end];
        assert!(nepa::pickle::tensors(pickle).is_ok(), "{name}");
        for at in 0..pickle.len() {
            // Ends of numbers, an instruction of each kind, and neighbours of what is there.
            let values = [0, 1, 0x7f, 0x80, 0xff, b'(', b'.', b'0', b'h', b't', b'R', b'Q', b'u', b'b', 0x85, 0x8d];
            for value in values.into_iter().chain([1, 2, 16, 128].map(|bit| pickle[at] ^ bit)) {
                let mut bytes = pickle.to_vec();
                bytes[at] = value;
                let _ = nepa::pickle::tensors(&bytes);
            }
        }
    }
}

/// The complaint about a pickle.
#[track_caller]
fn bad_pickle(bytes: &[u8], piece: &str) {
    let error = nepa::pickle::tensors(bytes).expect_err("should be refused");
    let text = nepa::error::one_line(&error);
    assert!(text.contains(piece), "should say `{piece}`: {text}");
}

/// A tensor of float32 as PyTorch writes it: `(offset, size, stride)` as instructions.
fn tensor(len: &[u8], view: &[u8]) -> Vec<u8> {
    let storage =
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu";
    [b"\x80\x02", &storage[..], len, b"tQ", view, b"\x89)tR."].concat()
}

#[test]
fn pickles_that_lie_are_told() {
    bad_pickle(b"", "ends where 1 more bytes");
    bad_pickle(b"\x80\x02", "ends where 1 more bytes");
    bad_pickle(b"\x80\x02X\xff\xff\xff\x7fab", "2147483647 more bytes");
    bad_pickle(b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffab", "more bytes were announced");
    bad_pickle(b"\x80\x02\x8b\xff\xff\xff\xff", "more bytes were announced");
    bad_pickle(b"\x80\x02X\x01\0\0\0\xff.", "not UTF-8");
    bad_pickle(b"\x80\x02h\x05.", "never kept");
    bad_pickle(b"\x80\x02t.", "mark that was not set");
    bad_pickle(b"\x80\x02(0.", "more values than it has made");
    bad_pickle(b"\x80\x02K\x01K\x02.", "left over");
    bad_pickle(b"\x80\x02}(K\x01u.", "no value");
    bad_pickle(b"\x80\x02K\x01K\x02a.", "not a list or dictionary");
    bad_pickle(b"\x80\x02]K\x01K\x02s.", "key of a list");
    bad_pickle(b"\x80\x09.", "protocol");
    bad_pickle(b"\x80\x02K\x01)R.", "not a function");
    bad_pickle(b"\x80\x02ctorch\nFloatStorage\n)R.", "a call with 0 arguments");
    bad_pickle(b"\x80\x02\x81.", "instruction 0x81");
    bad_pickle(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.", "it holds os.system, which is not read");
    bad_pickle(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "it holds builtins.eval, which is not read");
    bad_pickle(b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "torch.storage._load_from_bytes");
    bad_pickle(b"\x80\x02c\x1b[31mred\nx\n.", "\\u{1b}");
}

#[test]
fn tensors_outside_their_storage_are_told() {
    let read = |len: &[u8], view: &[u8]| nepa::pickle::tensors(&tensor(len, view));
    // 6 values as [2, 3] from 0: K is an int of a byte, \x86 a pair.
    assert_eq!(read(b"K\x06", b"K\0K\x02K\x03\x86K\x03K\x01\x86").unwrap().tensors[0].1.size, [2, 3]);
    let bad: &[(&[u8], &[u8])] = &[
        (b"K\x05", b"K\0K\x02K\x03\x86K\x03K\x01\x86"),
        (b"K\x06", b"K\x01K\x02K\x03\x86K\x03K\x01\x86"),
        (b"K\x06", b"K\x07K\0\x85K\x01\x85"),
        (b"K\x06", b"J\xff\xff\xff\xffK\x01\x85K\x01\x85"),
        (b"K\x06", b"K\0K\x02K\x03\x86K\x03\x85"),
        // A size that overflows, and one that repeats a value 2^40 times.
        (
            b"K\x06",
            b"K\0\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x86K\0K\0\x86",
        ),
        (b"K\x06", b"K\0\x8a\x06\0\0\0\0\0\x01\x85K\0\x85"),
        (b"J\xff\xff\xff\xff", b"K\0K\x01\x85K\x01\x85"),
    ];
    for (len, view) in bad {
        assert!(read(len, view).is_err(), "{len:?} {view:?}");
    }
}

#[test]
fn cycles_deep_nests_and_multiplied_values_are_told() {
    // A list that holds itself.
    bad_pickle(b"\x80\x02]q\0h\0a.", "nested more than");
    // A tuple in a tuple, a million times.
    bad_pickle(&[b"\x80\x02)", vec![0x85; 1_000_000].as_slice(), b"."].concat(), "nested more than");
    // Each list holds the last one ten times: 10^20 values in 300 bytes.
    let mut bytes = b"\x80\x02]q\0".to_vec();
    for i in 0..20u8 {
        bytes.extend([b'0', b']', b'q', i + 1, b'(']);
        bytes.extend([b'h', i].repeat(10));
        bytes.push(b'e');
    }
    bytes.push(b'.');
    bad_pickle(&bytes, "more than 10000000 values");
    // A storage is a kilobyte while it is read; four bytes make one.
    let storage = b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0kX\x03\0\0\0cpuK\x01tq\0";
    bad_pickle(&[&storage[..], &b"h\0Q0".repeat(200_001), b"."].concat(), "refers to more than 200000 storages");
}
