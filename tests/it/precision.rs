//! bfloat16 autocast: what it changes, what stays float32, and how near the results are.

use crate::common::*;

/// `difference(a, b)`: the largest difference, relative to the largest magnitude of `a`; `gradients(model, images)`:
/// those of NEPA's loss, by name.
const HELPERS: &str = r#"
    let difference = |a, b| ((a - b).abs().max() / (a.abs().max() + 1e-30)).item();
    let loss_of = |model, images| {
        let out = model.encode(images);
        loss::next_embedding(out.last_hidden_state, out.input_embedding)
    };
"#;

fn script(text: &str) -> String {
    format!("{HELPERS}\n{text}")
}

#[test]
fn products_are_bfloat16_and_what_the_reference_keeps_in_float32_is_float32() {
    let said = run(&script(&format!(
        r#"
        for layer_scale in [1e-5, ()] {{
            let model = nn::vit_nepa({TINY} + #{{ layerscale_value: layer_scale, num_labels: 3, drop_path_prob: 0.5 }});
            let x = randn([2, 3, 8, 8]);
            autocast("bfloat16", || {{
                let p = model.named_parameters()["vit_nepa.encoder.layer.0.output.dense.weight"];
                print(p.matmul(p.transpose(0, 1)).dtype + " " + p.dtype);
                let out = model.encode(x, #{{ hidden_states: true }});
                print(out.input_embedding.dtype + " " + out.hidden_states[1].dtype + " " + out.last_hidden_state.dtype);
                print(out.logits.dtype);
                print(loss::next_embedding(out.last_hidden_state, out.input_embedding).dtype);
                print(loss::cross_entropy(out.logits, tensor([0, 2])).dtype);
                let z = randn([1, 2, 8]);
                // Of 8 products of bfloat16 not one in a hundred cosines would agree to 1e-6.
                let plain = autocast("float32", || loss::next_embedding(z, z, #{{ shift: false }}));
                print((loss::next_embedding(z, z, #{{ shift: false }}) - plain).item() == 0.0);
            }});
        }}
        "#
    )));
    let one = ["bfloat16 float32", "float32 float32 float32", "bfloat16", "float32", "float32", "true"];
    assert_eq!(said.succeeds().stdout.lines().collect::<Vec<_>>(), [one, one].concat());
}

#[test]
fn parameters_gradients_and_averages_stay_float32() {
    let said = run(&script(&format!(
        r#"
        let model = nn::vit_nepa({TINY});
        let opt = optim::adamw(model, #{{}});
        let ema = optim::ema(model, 0.9);
        let kinds = |tensors| {{ let all = #{{}}; for t in tensors.values() {{ all[t.dtype] = 1; }} all.keys() }};
        let p = model.named_parameters();
        for i in 0..2 {{
            let l = autocast("bfloat16", || loss_of.call(model, randn([2, 3, 8, 8])));
            l.backward();
            let grads = #{{}};
            for name in p.keys() {{ grads[name] = p[name].grad; }}
            print(kinds.call(grads));
            opt.step(1e-3);
            ema.update();
        }}
        print(kinds.call(p)); print(kinds.call(ema.state_dict()));
        "#
    )));
    assert_eq!(said.values(), vec![serde_json::json!(["float32"]); 4]);
}

#[test]
fn forward_and_gradients_are_near_those_of_float32() {
    // A bfloat16 has 8 bits: each rounding is off by up to 0.4 % and 0.2 % on average, with either sign. Some ten follow
    // each other on the way through a model of three blocks, and twice as many on the way back. The loss is a mean of
    // many cosines, in which they cancel.
    for name in ["gelu-affine", "gelu-plain-qknorm", "swiglu", "no-layerscale-no-qknorm"] {
        let said = run(&script(&format!(
            r#"
            let model = checkpoint::load("{}");
            model.train(false);
            let images = checkpoint::tensors("{}/io.safetensors").pixel_values.to(device());
            let results = |dtype| {{
                let l = autocast(dtype, || loss_of.call(model, images));
                l.backward();
                let all = #{{ loss: l.detach(), h: autocast(dtype, || model.encode(images).last_hidden_state.detach()) }};
                let p = model.named_parameters();
                for name in p.keys() {{ if p[name].grad != () {{ all[name] = p[name].grad.copy(); }} }}
                model.zero_grad();
                all
            }};
            let norm = |t| (t * t).sum().sqrt();
            let full = results.call("float32");
            let narrow = results.call("bfloat16");

            let worst = 0.0;
            for name in full.keys() {{ if name != "h" && name != "loss" {{
                let of = (norm.call(full[name] - narrow[name]) / (norm.call(full[name]) + 1e-30)).item();
                if of > worst {{ worst = of; }}
            }} }}
            print([difference.call(full.h, narrow.h), (full.loss - narrow.loss).abs().item(), worst]);
            "#,
            golden(name),
            golden(name)
        )));
        let found = &said.numbers()[0];
        assert!(found[0] > 1e-5, "{name} was computed in bfloat16: {found:?}");
        assert!(found[0] < 0.01 && found[1] < 0.002 && found[2] < 0.05, "{name}: {found:?}");
    }
}

#[test]
fn autocast_ends_with_its_scope_also_by_an_error() {
    let said = run(r#"
        let x = ones([2, 2]);
        let now = || x.matmul(x).dtype;
        print(now.call());
        print(autocast("bfloat16", || autocast("float32", now) + " " + now.call()));
        print(now.call());
        try { autocast("bfloat16", || { autocast("float32", || { throw "no" }) }); } catch (e) { print(e); }
        print(now.call());
        try { autocast("bfloat16", || x.matmul(ones([3]))); } catch (e) { print("caught"); }
        print(now.call());
        "#);
    let lines: Vec<&str> = said.succeeds().stdout.lines().collect();
    assert_eq!(lines, ["float32", "float32 bfloat16", "float32", "no", "float32", "caught", "float32"]);
}

#[test]
fn an_unknown_dtype_is_told() {
    let line = r#"autocast("bfloat15", || 1);"#;
    run(line).blames("recipe.rhai:1:1", line, &["unknown dtype \"bfloat15\"; did you mean `bfloat16`?", "float32"]);
    run(r#"autocast("int8", || 1);"#).fails(1).says(&["unknown dtype \"int8\""]);
}

#[test]
fn weights_are_cast_anew_after_a_step_and_after_no_grad() {
    let said = run(r#"
        let m = nn::linear(4, 4);
        let opt = optim::adamw(m, #{});
        let x = ones([1, 4]);
        autocast("bfloat16", || {
            let before = no_grad(|| m.forward(x));
            let y = m.forward(x);
            y.sum().backward();
            print(m.named_parameters().weight.grad != ());
            opt.step(1.0);
            print((m.forward(x) - before).abs().max().item() > 1.0);
        });
        "#);
    assert_eq!(said.values(), [true, true]);
}

#[test]
fn backward_gives_the_same_inside_autocast_and_outside() {
    let said = run(&script(&format!(
        r#"
        let model = nn::vit_nepa({TINY});
        let x = randn([2, 3, 8, 8]);
        let name = "vit_nepa.encoder.layer.0.attention.attention.query.weight";
        let p = model.named_parameters()[name];
        autocast("bfloat16", || loss_of.call(model, x).backward());
        let inside = p.grad.copy();
        model.zero_grad();
        let l = autocast("bfloat16", || loss_of.call(model, x));
        l.backward();
        print(p.grad.equal(inside) && inside.abs().max().item() > 0.0);
        "#
    )));
    assert_eq!(said.values(), [true]);
}

#[test]
fn tf32_can_be_allowed_and_does_nothing_on_a_cpu() {
    let said = run(r#"
        let a = randn([64, 64]);
        let before = a.matmul(a);
        allow_tf32(true); print(a.matmul(a).equal(before));
        allow_tf32(false); print(a.matmul(a).equal(before));
        "#);
    assert_eq!(said.values(), [true, true]);
}

#[test]
fn the_loss_falls_as_in_float32() {
    let said = run(&format!(
        r#"
        let images = data::open("{}", "train");
        let curve = |dtype| {{
            seed(1);
            let model = nn::vit_nepa(#{{ image_size: 28, patch_size: 7, num_channels: 1, hidden_size: 64,
                num_hidden_layers: 2, num_attention_heads: 4, pos_embed_rescale: 2.0 }});
            let opt = optim::adamw(model, #{{}});
            let loader = data::loader(images, [transform::normalize(0.5, 0.5)], #{{ batch: 16, shuffle: true, seed: 1, drop_last: true }});
            let losses = [];
            for batch in loader.epoch(0) {{
                let l = autocast(dtype, || {{
                    let out = model.encode(batch.images);
                    loss::next_embedding(out.last_hidden_state, out.input_embedding)
                }});
                l.backward();
                optim::clip_grad_norm(model, 1.0);
                opt.step(5e-4);
                losses.push(l.item());
                if losses.len() == 200 {{ break; }}
            }}
            losses
        }};
        print(curve.call("float32")); print(curve.call("bfloat16"));
        "#,
        fashion()
    ));
    let curves = said.numbers();
    let (full, narrow) = (&curves[0], &curves[1]);
    assert_eq!((full.len(), narrow.len()), (200, 200));
    assert!(full[199] < -0.5, "it learns: {}", full[199]);
    assert!(full.iter().zip(narrow).any(|(a, b)| a != b), "it was computed in bfloat16");
    // One step's loss is a mean over a batch; the mean of ten says where the curve is.
    for (i, (a, b)) in full.chunks(10).zip(narrow.chunks(10)).enumerate() {
        let [a, b] = [a, b].map(|c| c.iter().sum::<f64>() / 10.0);
        assert!((a - b).abs() < 0.01 * a.abs(), "steps {}..: {a} and {b}", i * 10);
    }
}
