//! Tensors of unexpected shapes and dtypes in everything that reads them; functions that reach back into what calls
//! them.

use crate::common::*;

#[test]
fn one_element_is_a_number_in_any_shape_and_dtype() {
    let folder = Folder::new();
    let script = r#"
        let shape = [];
        for dims in 0..20 {
            run::log(#{ dims: dims, x: ones(shape) * 2.5 });
            shape.push(1);
        }
        for dtype in ["float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"] {
            run::log(#{ x: ones([1, 1]).to(dtype) });
        }
    "#;
    folder.run_with(script, &["--out", "o"]).succeeds();
    let lines: Vec<serde_json::Value> =
        folder.text("o/metrics.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 29);
    assert!(lines[..20].iter().all(|line| line["x"] == 2.5), "{lines:?}");
    assert!(lines[20..23].iter().all(|line| line["x"] == 1.0) && lines[23..28].iter().all(|line| line["x"] == 1));
    assert_eq!(lines[28]["x"], true);
}

#[test]
fn tensors_of_any_shape_have_a_text() {
    // Which the text names.
    let said = Folder::on_cpu().run(
        r#"
        print(zeros([0, 3]).to_string());
        print(ones([1, 1, 1, 1, 1, 1, 1, 1, 1]).to_string());
        let twos = []; twos.pad(40, 2);
        let ones_ = []; ones_.pad(40, 1);
        print(ones(ones_).expand(twos).to_string());
        print(ones([2]).to("bfloat16").to_string());
        print(ones([]).to("bool").to_string());
    "#,
    );
    said.succeeds().prints(&[
        "Tensor [0, 3] float32 on cpu\n",
        "[[[[[[[[[1.0000]]]]]]]]]",
        "float32 on cpu (too many values to show)",
        "[1.0000, 1.0000]",
        "Tensor [] bool on cpu\ntrue",
    ]);
}

#[test]
fn numbers_out_of_range_are_errors_with_the_number() {
    let calls = [
        ("ones([3])[0..=9223372036854775807].shape", "[3]"),
        ("ones([3]).size(-9223372036854775807)", "size: dimension -9223372036854775807 is outside"),
        ("ones([3]).slice(0, -9223372036854775807, 1)", "is outside dimension 0"),
        ("ones([3]).slice(-5, 0, 1)", "dimension -5 is outside"),
        ("ones([3])[-4]", "index -4 is outside dimension 0"),
        ("zeros([-1])", "sizes must not be negative, found -1"),
        ("zeros([9223372036854775807, 3])", "more elements than can be counted"),
        ("randperm(-1)", "randperm: expected n from 0 to 4294967295, found -1"),
        ("randint(5, 5, [1])", "an empty range of integers: 5..5"),
        ("ones([3]).item()", "expected a tensor of one element, found [3] float32"),
        ("rand_per_sample([])", "expected the number of samples"),
        (
            "nn::vit_nepa(#{ image_size: 8, patch_size: 4, hidden_size: 8, num_attention_heads: 2, num_hidden_layers: 1 })\
             .cost(#{ batch: 9_000_000_000_000_000_000 })",
            "cost: a batch of 9000000000000000000 has more operations than can be counted",
        ),
        ("ones([2]).chunk(0, 0)", ""),
        ("ones([2]).one_hot(3)", ""),
        ("ones([2]).bincount(-1)", ""),
        ("ones([2, 2]).topk(5)", ""),
        ("transform::center_crop(-1)", "expected a size in pixels"),
        ("transform::center_crop([4294967296, 1])", ""),
        ("data::synthetic(#{ len: 4, size: 4 }).take(-1)", "-1"),
        ("data::synthetic(#{ len: 4, size: 4 }).take(4294967297)", "4294967297"),
        ("data::synthetic(#{ len: 4, size: 4 }).subset([-1])", "there is no item -1"),
        ("data::synthetic(#{ len: -1 })", "-1"),
        ("data::synthetic(#{ len: 4, size: 4 }).per_class(-1, 0)", "-1"),
    ];
    let script: String =
        calls.map(|(call, _)| format!("try {{ print({call}); }} catch (e) {{ print(e.message); }}\n")).concat();
    let said = run(&script);
    said.succeeds();
    let lines: Vec<&str> = said.stdout.lines().filter(|line| !line.starts_with("  ")).collect();
    assert_eq!(lines.len(), calls.len(), "{said}");
    for (line, (call, piece)) in lines.iter().zip(calls) {
        assert!(line.contains(piece), "{call}: `{line}` should hold `{piece}`");
    }
}

#[test]
fn a_loader_cannot_be_used_by_its_own_transforms() {
    for inner in ["all.own.epoch(1)", "all.epoch.next()", "all.epoch.left", "for b in all.epoch { }"] {
        let script = format!(
            r#"
            let all = #{{}};
            let source = data::synthetic(#{{ len: 8, size: 4 }});
            let own = data::loader(source, [|batch| {{ let x = {{ {inner} }}; batch }}], #{{ batch: 2 }});
            all.own = own;
            all.epoch = own.epoch(0);
            let epoch = all.epoch;
            try {{ for batch in epoch {{ print("a batch"); }} }} catch (e) {{ print(e.message); print(e.hint); }}
            // Nothing is left behind: another loader works, and so does this one, to where it fails again.
            for batch in data::loader(source, [], #{{ batch: 4 }}).epoch(0) {{ print(batch.len); }}
            try {{ own.epoch(1).next(); }} catch (e) {{ print("again: " + e.message); }}
            "#
        );
        let said = run(&script);
        let message = "a loader cannot be used by a function among its own transforms";
        said.succeeds().prints(&[message, "from another loader", "4\n4\n", &format!("again: {message}")]);
    }
}

#[test]
fn an_average_that_is_applied_is_neither_updated_nor_saved() {
    let folder = Folder::new();
    let script = r#"
        let model = nn::linear(2, 2);
        let ema = optim::ema(model, 0.5);
        ema.update();
        model.load_state_dict(#{ weight: ones([2, 2]), bias: ones([2]) });
        let before = ema.state_dict().weight.copy();
        let saver = run::checkpoints("loop", #{ model: model, ema: ema }, #{});
        saver.resume(#{}, []);
        // Not the variable that the closures capture.
        let lent = ema;
        for inner in [|| ema.update(), || ema.state_dict(), || ema.apply(|| 1), || saver.save(1, #{})] {
            try { lent.apply(|| inner.call()); print("no error"); } catch (e) { print(e.message); }
            print(ema.state_dict().weight.equal(before) && model.state_dict().weight.equal(ones([2, 2])));
        }
        lent.apply(|| print(model.state_dict().weight.equal(before)));
    "#;
    let said = folder.run_with(script, &["--out", "o"]);
    said.succeeds();
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines.len(), 9, "{said}");
    for (pair, done) in lines.chunks(2).zip(["updated", "read or saved", "applied again", "read or saved"]) {
        assert!(
            pair[0].contains(&format!("an average cannot be {done} while it is applied")) && pair[1] == "true",
            "{said}"
        );
    }
    assert_eq!(lines[8], "true");
}

#[test]
fn synthetic_images_draw_from_streams_of_their_own() {
    // One seed for everything: the labels, or what the loader draws, say nothing about the noise.
    let said = run(r#"
        let images = |seed| data::synthetic(#{ len: 3, size: 8, classes: 3, seed: seed });
        let tensors = |source| stack([source.image(0).tensor(), source.image(1).tensor(), source.image(2).tensor()], 0);
        print(tensors.call(images.call(1)).equal(tensors.call(images.call(1))));
        print(tensors.call(images.call(1)).equal(tensors.call(images.call(2))));
        let parts = data::synthetic(#{ len: 90, size: 4, classes: 3 });
        let names = |source| { let all = []; for i in 0..source.len { all.push(source.name(i)); } all };
        // The same seed chooses other items for each class than for a split.
        print(names.call(parts.per_class(10, 0)) == names.call(parts.split(1.0 / 3.0, 0)[0]));
    "#);
    said.succeeds();
    assert_eq!(said.stdout, "true\nfalse\nfalse\n");
}
