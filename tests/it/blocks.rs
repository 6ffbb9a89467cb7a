//! Building blocks, losses and optimizers against their formulas, written out here with plain loops.

use crate::common::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::f64::consts::PI;

unsafe extern "C" {
    safe fn erf(x: f64) -> f64;
}

type Rows = Vec<Vec<f64>>;
type Activation = fn(f64) -> f64;

/// Flat lists of numbers by name, from a script's `show(#{ … })`.
struct Shown(BTreeMap<String, Vec<f64>>);

/// What every script here can use: `show`, and `shake`, which fills a module with random weights.
const HELPERS: &str = r#"
    let show = |values| {
        let all = #{};
        for name in values.keys() { all[name] = values[name].reshape([-1]).to_array(); }
        print(all.to_json());
    };
    let shake = |m| {
        let all = m.state_dict();
        for name in all.keys() { all[name] = randn(all[name].shape) * 0.5; }
        m.load_state_dict(all);
    };
"#;

/// Runs a script whose last line is a `show`.
fn shown(script: &str) -> Shown {
    let said = run(&format!("{HELPERS}\n{script}"));
    said.succeeds();
    let json: Value = serde_json::from_str(said.stdout.trim()).unwrap_or_else(|e| panic!("{e}: {said}"));
    let list = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    Shown(json.as_object().unwrap().iter().map(|(k, v)| (k.clone(), list(v))).collect())
}

impl Shown {
    fn get(&self, name: &str) -> &[f64] {
        self.0.get(name).unwrap_or_else(|| panic!("no `{name}` in {:?}", self.0.keys()))
    }

    fn rows(&self, name: &str, width: usize) -> Rows {
        self.get(name).chunks(width).map(<[f64]>::to_vec).collect()
    }
}

// ---- formulas ----

fn linear(x: &Rows, p: &Shown, name: &str) -> Rows {
    let (weight, bias) = (p.get(&format!("{name}.weight")), p.0.get(&format!("{name}.bias")));
    let inputs = x[0].len();
    let dot = |row: &[f64], w: &[f64]| row.iter().zip(w).map(|(a, b)| a * b).sum::<f64>();
    let one = |row: &Vec<f64>| {
        weight.chunks(inputs).enumerate().map(|(o, w)| dot(row, w) + bias.map_or(0.0, |b| b[o])).collect()
    };
    x.iter().map(one).collect()
}

fn normed(row: &[f64]) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    row.iter().map(|v| (v - mean) / (variance + 1e-12).sqrt()).collect()
}

fn layer_norm(x: &Rows, p: &Shown, name: &str) -> Rows {
    let weight = p.0.get(&format!("{name}.weight"));
    let bias = p.0.get(&format!("{name}.bias"));
    let affine = |(i, v): (usize, f64)| v * weight.map_or(1.0, |w| w[i]) + bias.map_or(0.0, |b| b[i]);
    x.iter().map(|row| normed(row).into_iter().enumerate().map(affine).collect()).collect()
}

/// The angles of one patch: 2π · [y·f, x·f], twice.
fn angles(row: usize, column: usize, (rows, columns): (usize, usize), d: usize, theta: f64) -> Vec<f64> {
    let centre = |i: usize, n: usize| 2.0 * (i as f64 + 0.5) / n as f64 - 1.0;
    let f: Vec<f64> = (0..d / 4).map(|j| theta.powf(-4.0 * j as f64 / d as f64)).collect();
    let half: Vec<f64> = [centre(row, rows), centre(column, columns)]
        .iter()
        .flat_map(|c| f.iter().map(move |f| 2.0 * PI * c * f))
        .collect();
    [half.clone(), half].concat()
}

/// x·cos + rotate_half(x)·sin with rotate_half([a, b]) = [−b, a].
fn rotated(x: &[f64], angles: &[f64]) -> Vec<f64> {
    let half = x.len() / 2;
    let turned = |i: usize| if i < half { -x[i + half] } else { x[i - half] };
    (0..x.len()).map(|i| x[i] * angles[i].cos() + turned(i) * angles[i].sin()).collect()
}

/// Attention of one sequence on a class token and a `side` x `side` grid.
fn attention(x: &Rows, p: &Shown, prefix: &str, heads: usize, causal: bool, side: usize) -> Rows {
    let (n, width) = (x.len(), x[0].len());
    let d = width / heads;
    let name = |part: &str| format!("{prefix}attention.{part}");
    let [q, k, v] = ["query", "key", "value"].map(|part| linear(x, p, &name(part)));
    let mut mixed = vec![vec![0.0; width]; n];
    for h in 0..heads {
        let head = |t: &Rows| -> Rows { t.iter().map(|row| row[h * d..(h + 1) * d].to_vec()).collect() };
        let turn = |t: Rows| -> Rows {
            let patch = |i: usize| angles((i - 1) / side, (i - 1) % side, (side, side), d, 100.0);
            t.iter().enumerate().map(|(i, row)| if i == 0 { row.clone() } else { rotated(row, &patch(i)) }).collect()
        };
        let q = turn(layer_norm(&head(&q), p, &name("q_norm")));
        let k = turn(layer_norm(&head(&k), p, &name("k_norm")));
        for i in 0..n {
            let visible = if causal { i + 1 } else { n };
            let dot = |j: usize| q[i].iter().zip(&k[j]).map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt();
            let weights: Vec<f64> = (0..visible).map(|j| dot(j).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (j, w) in weights.iter().enumerate() {
                for c in 0..d {
                    mixed[i][h * d + c] += w / total * v[j][h * d + c];
                }
            }
        }
    }
    linear(&mixed, p, &format!("{prefix}output.dense"))
}

fn gelu(x: f64) -> f64 {
    x * 0.5 * (1.0 + erf(x / 2f64.sqrt()))
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn mlp(x: &Rows, p: &Shown, act: Activation, gated: bool) -> Rows {
    let up = linear(x, p, "intermediate.up_proj");
    let inner = match gated {
        false => up.iter().map(|row| row.iter().map(|&v| act(v)).collect()).collect(),
        true => {
            let gate = linear(x, p, "intermediate.gate_proj");
            let product = |(g, u): (&Vec<f64>, &Vec<f64>)| g.iter().zip(u).map(|(&g, &u)| act(g) * u).collect();
            gate.iter().zip(&up).map(product).collect()
        }
    };
    linear(&inner, p, "output.dense")
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>() / (norm(a) * norm(b))
}

// ---- rotary embedding ----

#[test]
fn rotary_angles_follow_the_formula() {
    for (d, theta, rows, columns) in [(8, 100.0, 2, 3), (16, 10.0, 4, 4), (4, 100.0, 1, 1)] {
        let script = format!(
            "let r = nn::rotary_embedding(#{{ head_size: {d}, rope_theta: {theta:?} }}); r.train(false);\n\
             let t = r.angles({rows}, {columns}); show.call(#{{ cos: t[0], sin: t[1] }});"
        );
        let p = shown(&script);
        let all: Vec<f64> =
            (0..rows * columns).flat_map(|i| angles(i / columns, i % columns, (rows, columns), d, theta)).collect();
        assert_close(p.get("cos"), &all.iter().map(|a| a.cos()).collect::<Vec<_>>(), 1e-5);
        assert_close(p.get("sin"), &all.iter().map(|a| a.sin()).collect::<Vec<_>>(), 1e-5);
    }
}

/// Coordinates (y of row 0, y of row 1, x of column 0, x of column 1) of 400 draws on a 2 x 2 grid.
fn drawn(options: &str, train: bool) -> Vec<[f64; 4]> {
    // Of head size 8 the second frequency is 0.1: its angle tells the coordinate without wrapping.
    let script = format!(
        r#"
        let r = nn::rotary_embedding(#{{ head_size: 8, {options} }});
        r.train({train});
        for i in 0..400 {{
            let t = r.angles(2, 2);
            print([t[0][0][1].item(), t[1][0][1].item(), t[0][2][1].item(), t[1][2][1].item(),
                   t[0][0][3].item(), t[1][0][3].item(), t[0][1][3].item(), t[1][1][3].item()]);
        }}
        "#
    );
    let coordinate = |cos: f64, sin: f64| sin.atan2(cos) / (2.0 * PI * 0.1);
    run(&script).numbers().iter().map(|v| [0, 2, 4, 6].map(|i| coordinate(v[i], v[i + 1]))).collect()
}

fn spread(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max))
}

#[test]
fn position_shift_moves_each_axis_by_its_own_amount_within_its_range() {
    let all = drawn("pos_embed_shift: 0.3", true);
    let shift = |[y0, y1, x0, x1]: &[f64; 4]| ((y0 + y1) / 2.0, (x0 + x1) / 2.0);
    for draw in &all {
        assert_close(&[draw[1] - draw[0], draw[3] - draw[2]], &[1.0, 1.0], 1e-3);
    }
    for axis in [|d: (f64, f64)| d.0, |d: (f64, f64)| d.1] {
        let (low, high) = spread(all.iter().map(|d| axis(shift(d))));
        assert!((-0.301..-0.28).contains(&low) && (0.28..0.301).contains(&high), "{low} {high}");
    }
    assert!(all.iter().any(|d| (shift(d).0 - shift(d).1).abs() > 0.1), "the axes differ");
}

#[test]
fn position_jitter_scales_each_axis_by_its_own_factor_within_its_range() {
    let all = drawn("pos_embed_jitter: 1.5", true);
    for axis in [0, 2] {
        let factors = all.iter().map(|d| d[axis + 1] - d[axis]);
        let (low, high) = spread(factors.clone());
        assert!((0.666..0.70).contains(&low) && (1.43..1.501).contains(&high), "{low} {high}");
        let mean = factors.map(f64::ln).sum::<f64>() / all.len() as f64;
        assert!(mean.abs() < 0.05, "uniform in the logarithm: {mean}");
    }
    assert!(all.iter().any(|d| ((d[1] - d[0]) - (d[3] - d[2])).abs() > 0.2), "the axes differ");
    assert!(all.iter().all(|d| (d[0] + d[1]).abs() < 1e-3), "the centre stays");
}

#[test]
fn position_rescale_scales_both_axes_by_one_factor_within_its_range() {
    let all = drawn("pos_embed_rescale: 2.0", true);
    let (low, high) = spread(all.iter().map(|d| d[1] - d[0]));
    assert!((0.499..0.53).contains(&low) && (1.89..2.001).contains(&high), "{low} {high}");
    assert!(all.iter().all(|d| ((d[1] - d[0]) - (d[3] - d[2])).abs() < 1e-3), "the axes agree");
}

#[test]
fn groups_of_images_get_positions_of_their_own_in_a_model() {
    let folder = Folder::new();
    let script = format!(
        r#"
        let config = {TINY} + #{{ pos_embed_rescale: 2.0, pos_embed_images_per_draw: 2, layerscale_value: 1.0 }};
        let block = nn::define(#{{}}, |m, x| {{ print(m.rotary.shape); x }});
        nn::blocks(config, [block, block]).forward(randn([5, 5, 8]));
        // Images that are all the same come out the same in a group.
        let m = nn::vit_nepa(config);
        let y = m.forward(randn([1, 3, 8, 8]).expand([5, 3, 8, 8]));
        let same = |i, j| (y[i] - y[j]).abs().max().item() < 1e-6;
        print([same.call(0, 1), same.call(2, 3), same.call(0, 2), same.call(2, 4)]);
        checkpoint::save(m, "grouped");
        checkpoint::save(nn::vit_nepa({TINY}), "plain");
        print(checkpoint::load("grouped").config.pos_embed_images_per_draw);
        "#
    );
    let shape = serde_json::json!([2, 5, 1, 4, 4]);
    let values = folder.run(&script).values();
    assert_eq!(values, [shape.clone(), shape, serde_json::json!([true, true, false, false]), 2.into()]);
    // The reference's configuration has no such key.
    assert!(folder.json("plain/config.json").get("pos_embed_images_per_draw").is_none());
}

#[test]
fn positions_are_not_augmented_in_evaluation() {
    let options = "pos_embed_shift: 0.3, pos_embed_jitter: 1.5, pos_embed_rescale: 2.0";
    for draw in drawn(options, false) {
        assert_close(&draw, &[-0.5, 0.5, -0.5, 0.5], 1e-3);
    }
    let script = format!(
        r#"
        let m = nn::vit_nepa({TINY} + #{{ pos_embed_rescale: 2.0, layerscale_value: 1.0 }});
        let x = randn([1, 3, 8, 8]);
        let differs = || (m.forward(x) - m.forward(x)).abs().max().item() > 1e-6;
        print(differs.call()); m.train(false); print(differs.call());
        "#
    );
    assert_eq!(run(&script).values(), [true, false]);
}

// ---- attention, mlp, block ----

#[test]
fn attention_is_an_explicit_softmax() {
    for (options, causal) in
        [("", true), ("is_causal: false, qk_norm_bias: true", false), ("qk_norm_affine: false, qkv_bias: false", true)]
    {
        let script = format!(
            r#"
            let m = nn::attention({TINY} + #{{ hidden_size: 16, {options} }});
            shake.call(m);
            let r = nn::rotary_embedding(#{{ head_size: 8 }});
            r.train(false);
            let x = randn([1, 5, 16]);
            show.call(m.state_dict() + #{{ x: x, y: m.forward(x, r.angles(2, 2)) }});
            "#
        );
        let p = shown(&script);
        let expected = attention(&p.rows("x", 16), &p, "", 2, causal, 2);
        assert_close(p.get("y"), &expected.concat(), 2e-4);
    }
}

#[test]
fn the_attentions_that_encode_gives_are_those_it_uses() {
    let script = format!(
        r#"
        let m = nn::vit_nepa({TINY} + #{{ layerscale_value: 1.0 }});
        let x = randn([2, 3, 8, 8]);
        let open = m.encode(x, #{{ attentions: true }});
        print((open.last_hidden_state - m.encode(x).last_hidden_state).abs().max().item() < 1e-5);
        for a in open.attentions {{
            print(a.shape);
            print((a.sum(-1) - 1.0).abs().max().item() < 1e-5 && a.triu(1).abs().max().item() == 0.0);
        }}
        "#
    );
    let shape = serde_json::json!([2, 2, 5, 5]);
    let yes = Value::from(true);
    assert_eq!(run(&script).values(), [yes.clone(), shape.clone(), yes.clone(), shape, yes]);
}

#[test]
fn a_causal_model_does_not_see_later_patches() {
    let script = format!(
        r#"
        for causal in [true, false] {{
            let m = nn::vit_nepa({TINY} + #{{ layerscale_value: 1.0, is_causal: causal, initializer_range: 0.2 }});
            let a = randn([1, 3, 8, 8]);
            let b = a.copy();
            // The last patch in raster order: tokens 0 … 3 are the class token and the three before it.
            b.slice(2, 4, 8).slice(3, 4, 8).copy_(ones([1]));
            let difference = (m.forward(a) - m.forward(b)).abs().amax(-1)[0];
            print(difference[0..4].max().item() < 1e-6);
            print(difference[4].item() > 1e-3);
        }}
        "#
    );
    assert_eq!(run(&script).values(), [true, true, false, true]);
}

#[test]
fn mlps_are_plain_or_gated() {
    let cases: [(&str, Activation, bool); 4] = [
        ("hidden_act: \"gelu\"", gelu, false),
        ("hidden_act: \"silu\"", silu, false),
        ("hidden_act: \"gelu\", use_gated_mlp: true", gelu, true),
        ("hidden_act: \"silu\", use_gated_mlp: true", silu, true),
    ];
    for (options, act, gated) in cases {
        let script = format!(
            "let m = nn::mlp({TINY} + #{{ {options} }}); shake.call(m); let x = randn([1, 3, 8]);\n\
             show.call(m.state_dict() + #{{ x: x, y: m.forward(x) }});"
        );
        let p = shown(&script);
        assert_close(p.get("y"), &mlp(&p.rows("x", 8), &p, act, gated).concat(), 1e-4);
    }
}

#[test]
fn a_block_adds_scaled_branches_of_the_normed_input() {
    for (options, scaled) in [("", true), ("layerscale_value: ()", false)] {
        let script = format!(
            r#"
            let m = nn::block({TINY} + #{{ {options} }});
            shake.call(m);
            let r = nn::rotary_embedding(#{{ head_size: 4 }});
            r.train(false);
            let x = randn([1, 5, 8]);
            show.call(m.state_dict() + #{{ x: x, y: m.forward(x, r.angles(2, 2)) }});
            "#
        );
        let p = shown(&script);
        assert_eq!(p.0.contains_key("layer_scale.lambda1"), scaled);
        let add = |x: Rows, branch: Rows, scale: &str| -> Rows {
            let factor = |c: usize| if scaled { p.get(scale)[c] } else { 1.0 };
            let one = |(a, b): (Vec<f64>, Vec<f64>)| {
                a.iter().zip(&b).enumerate().map(|(c, (a, b))| a + factor(c) * b).collect()
            };
            x.into_iter().zip(branch).map(one).collect()
        };
        let x = p.rows("x", 8);
        let branch = attention(&layer_norm(&x, &p, "layernorm_before"), &p, "attention.", 2, true, 2);
        let x = add(x, branch, "layer_scale.lambda1");
        let branch = mlp(&layer_norm(&x, &p, "layernorm_after"), &p, gelu, false);
        let x = add(x, branch, "output.layer_scale.lambda1");
        assert_close(p.get("y"), &x.concat(), 1e-3);
    }
}

#[test]
fn patches_are_taken_in_raster_order_and_the_class_token_stands_in_front() {
    let script = format!(
        r#"
        let m = nn::vit_nepa({TINY});
        let x = randn([1, 3, 8, 8]);
        let all = m.state_dict();
        show.call(#{{
            x: x,
            z: m.encode(x).input_embedding,
            token: all["vit_nepa.embeddings.cls_token"],
            weight: all["vit_nepa.embeddings.patch_embeddings.projection.weight"],
        }});
        "#
    );
    let p = shown(&script);
    let (x, weight, z) = (p.get("x"), p.get("weight"), p.rows("z", 8));
    assert_eq!(z.len(), 5);
    assert_close(&z[0], p.get("token"), 1e-7);
    for patch in 0..4 {
        let (top, left) = (patch / 2 * 4, patch % 2 * 4);
        let value = |o: usize| -> f64 {
            let inside = (0..3).flat_map(|c| (0..4).flat_map(move |y| (0..4).map(move |x| (c, y, x))));
            inside.map(|(c, i, j)| weight[((o * 3 + c) * 4 + i) * 4 + j] * x[(c * 8 + top + i) * 8 + left + j]).sum()
        };
        assert_close(&z[1 + patch], &(0..8).map(value).collect::<Vec<_>>(), 1e-5);
    }
}

#[test]
fn heads_pool_the_patch_tokens_or_take_the_last_token() {
    for pooled in [true, false] {
        let script = format!(
            "let m = nn::classifier({TINY} + #{{ num_labels: 3, add_pooling_layer: {pooled} }}); shake.call(m); let x = randn([1, 5, 8]);\n\
             show.call(m.state_dict() + #{{ x: x, y: m.forward(x) }});"
        );
        let p = shown(&script);
        let x = p.rows("x", 8);
        let features = match pooled {
            true => layer_norm(
                &vec![(0..8).map(|c| x[1..].iter().map(|r| r[c]).sum::<f64>() / 4.0).collect()],
                &p,
                "fc_norm",
            ),
            false => vec![x[4].clone()],
        };
        assert_close(p.get("y"), &linear(&features, &p, "classifier").concat(), 1e-5);
    }
}

#[test]
fn pooling_over_no_patch_tokens_is_told() {
    let line = "m.forward(ones([1, 1, 8]));";
    let script = format!("let m = nn::classifier({TINY} + #{{ num_labels: 3 }});\n{line}");
    run(&script).blames("recipe.rhai:2:3", line, &["[1, 1, 8]"]);
}

// ---- drop path ----

#[test]
fn drop_path_drops_whole_samples_and_keeps_the_expectation() {
    let said = run("let d = nn::drop_path(0.3); let y = d.forward(ones([4000, 2, 3])).flatten(1, 2);\n\
         print(y.amax(1).to_array()); print((y.amax(1) - y.amin(1)).abs().max().item());\n\
         d.train(false); print(d.forward(ones([9])).to_array());\n\
         let none = nn::drop_path(0.0); print(none.forward(ones([9])).to_array());");
    let all = said.numbers();
    let kept = all[0].iter().filter(|v| **v != 0.0).count() as f64 / 4000.0;
    assert!((kept - 0.7).abs() < 0.03, "{kept}");
    assert!(all[0].iter().all(|v| *v == 0.0 || (v - 1.0 / 0.7).abs() < 1e-5));
    assert_eq!(all[1], [0.0], "one draw a sample");
    assert_eq!((&all[2], &all[3]), (&vec![1.0; 9], &vec![1.0; 9]));
}

#[test]
fn drop_path_grows_linearly_from_the_first_block_to_the_last() {
    // A block leaves a sample as it is where both branches are dropped: with probability p².
    let script = format!(
        r#"
        let m = nn::vit_nepa({TINY} + #{{ num_hidden_layers: 3, drop_path_prob: 0.6, layerscale_value: 1.0 }});
        let states = m.encode(randn([3000, 3, 8, 8]), #{{ hidden_states: true }}).hidden_states;
        for i in 0..3 {{ print(((states[i + 1] - states[i]).abs().sum([1, 2]) == 0.0).to("float32").mean().item()); }}
        "#
    );
    let shares = run(&script).numbers().concat();
    assert_close(&shares, &[0.0, 0.09, 0.36], 0.035);
}

// ---- initial values ----

#[test]
fn initial_values_are_the_references() {
    let script = r#"
        let m = nn::vit_nepa(#{ image_size: 32, patch_size: 8, hidden_size: 192, num_attention_heads: 3,
            num_hidden_layers: 2, qk_norm_bias: true, num_labels: 50, layerscale_value: 1e-4 });
        for name in m.named_parameters().keys() {
            let t = m.named_parameters()[name];
            print(`["${name}", ${t.ndim}, ${t.mean().item()}, ${t.std().item()}, ${t.min().item()}, ${t.max().item()}]`);
        }
    "#;
    let values = run(script).values();
    assert_eq!(values.len(), 53);
    for v in &values {
        let name = v[0].as_str().unwrap();
        let [mean, std, min, max] = [2, 3, 4, 5].map(|i| v[i].as_f64().unwrap());
        if name.contains("lambda1") {
            assert!((min - 1e-4).abs() < 1e-9 && min == max, "{v}");
        } else if name.ends_with("bias") {
            assert_eq!((min, max), (0.0, 0.0), "{v}");
        } else if name.contains("norm") {
            assert_eq!((min, max), (1.0, 1.0), "{v}");
        } else {
            let tolerance = if name.contains("cls_token") { 0.004 } else { 0.001 };
            assert!((std - 0.02).abs() < tolerance && mean.abs() < tolerance, "{v}");
        }
    }
}

#[test]
fn the_initializer_range_is_a_choice_and_two_layers_differ() {
    let said = run(
        "let a = nn::linear(100, 100, #{ initializer_range: 0.5 }); let b = nn::linear(100, 100, #{ bias: false });\n\
         print(a.named_parameters().weight.std().item()); print(b.named_parameters().len());\n\
         print((a.named_parameters().weight / 25.0 - b.named_parameters().weight).abs().max().item());",
    );
    let all = said.numbers().concat();
    assert!((all[0] - 0.5).abs() < 0.02 && all[1] == 1.0 && all[2] > 0.01, "{all:?}");
}

// ---- losses ----

#[test]
fn the_nepa_loss_is_minus_the_mean_cosine_with_the_next_embedding() {
    let p = shown(
        r#"
        let h = randn([2, 4, 3]); let z = randn([2, 4, 3]);
        show.call(#{ h: h, z: z, shifted: loss::next_embedding(h, z), same: loss::next_embedding(h, z, #{ shift: false }),
            intermediate: loss::next_embedding_intermediate([z, h, h * h, z], z) });
        "#,
    );
    let (h, z) = (p.rows("h", 3), p.rows("z", 3));
    let loss = |h: &Rows, shift: usize| {
        let all = (0..2).flat_map(|b| (0..4 - shift).map(move |t| (b * 4 + t, b * 4 + t + shift)));
        let cosines: Vec<f64> = all.map(|(i, j)| cosine(&h[i], &z[j])).collect();
        -cosines.iter().sum::<f64>() / cosines.len() as f64
    };
    assert_close(p.get("shifted"), &[loss(&h, 1)], 1e-6);
    assert_close(p.get("same"), &[loss(&h, 0)], 1e-6);
    let squares: Rows = h.iter().map(|r| r.iter().map(|v| v * v).collect()).collect();
    assert_close(p.get("intermediate"), &[(loss(&h, 1) + loss(&squares, 1)) / 2.0], 1e-6);
}

#[test]
fn the_nepa_loss_of_zero_vectors_is_finite_with_finite_gradients() {
    let said = run(r#"
        for stop in [true, false] {
            let h = zeros([1, 3, 4]).requires_grad(true); let z = zeros([1, 3, 4]).requires_grad(true);
            let l = loss::next_embedding(h, z, #{ stop_grad: stop });
            l.backward();
            print(l.item() == 0.0 && h.grad.is_finite() && (stop || z.grad.is_finite()));
        }
        "#);
    assert_eq!(said.values(), [true, true]);
}

#[test]
fn the_nepa_loss_stops_the_gradient_of_the_embeddings_unless_told_otherwise() {
    let said = run(r#"
        for stop in [true, false] {
            let h = randn([1, 3, 4]).requires_grad(true); let z = randn([1, 3, 4]).requires_grad(true);
            loss::next_embedding(h, z, #{ stop_grad: stop }).backward();
            print(h.grad != () && (h.grad.abs().max().item() > 0.0));
            print(z.grad == ());
            if !stop { print(z.grad[0][0].abs().max().item() == 0.0 && z.grad[0][1].abs().max().item() > 0.0); }
        }
        "#);
    assert_eq!(said.values(), [true, true, true, false, true]);
}

#[test]
fn cross_entropy_takes_labels_and_soft_targets_and_smooths() {
    let p = shown(
        r#"
        let x = randn([3, 4]); let y = tensor([1, 0, 3]); let q = randn([3, 4]).softmax(1);
        show.call(#{ x: x, y: y, q: q, hard: loss::cross_entropy(x, y), soft: loss::cross_entropy(x, q),
            smooth: loss::cross_entropy(x, y, #{ label_smoothing: 0.1 }),
            soft_smooth: loss::cross_entropy(x, q, #{ label_smoothing: 0.25 }) });
        "#,
    );
    let (x, q) = (p.rows("x", 4), p.rows("q", 4));
    let hard: Rows = p.get("y").iter().map(|&y| (0..4).map(|c| f64::from(c as f64 == y)).collect()).collect();
    let loss = |targets: &Rows, smoothing: f64| {
        let one = |(x, t): (&Vec<f64>, &Vec<f64>)| -> f64 {
            let total = x.iter().map(|v| v.exp()).sum::<f64>().ln();
            x.iter().zip(t).map(|(v, t)| -((1.0 - smoothing) * t + smoothing / 4.0) * (v - total)).sum()
        };
        x.iter().zip(targets).map(one).sum::<f64>() / 3.0
    };
    assert_close(p.get("hard"), &[loss(&hard, 0.0)], 1e-6);
    assert_close(p.get("soft"), &[loss(&q, 0.0)], 1e-6);
    assert_close(p.get("smooth"), &[loss(&hard, 0.1)], 1e-6);
    assert_close(p.get("soft_smooth"), &[loss(&q, 0.25)], 1e-6);
}

// ---- optimizers ----

#[test]
fn adamw_follows_the_formula() {
    let p = shown(
        r#"
        let m = nn::linear(3, 2);
        shake.call(m);
        let start = m.state_dict();
        let opt = optim::adamw(m, #{ betas: [0.8, 0.9], eps: 1e-3, weight_decay: 0.1 });
        let g1 = randn([2, 3]); let g2 = randn([2, 3]); let b = randn([2]);
        for (g, lr) in [g1, g2] {
            ((m.named_parameters().weight * g).sum() + (m.named_parameters().bias * b).sum()).backward();
            opt.step(0.05 * (lr + 1));
        }
        show.call(#{ w0: start.weight, b0: start.bias, g1: g1, g2: g2, b: b,
            w: m.named_parameters().weight, bias: m.named_parameters().bias });
        "#,
    );
    let update = |start: &[f64], grads: [&[f64]; 2], decay: f64| -> Vec<f64> {
        let one = |i: usize| {
            let (mut w, mut m, mut v) = (start[i], 0.0, 0.0);
            for (step, lr) in [(1, 0.05), (2, 0.1)] {
                let g = grads[step as usize - 1][i];
                w -= lr * decay * w;
                m = 0.8 * m + 0.2 * g;
                v = 0.9 * v + 0.1 * g * g;
                let (m, v) = (m / (1.0 - 0.8f64.powi(step)), v / (1.0 - 0.9f64.powi(step)));
                w -= lr * m / (v.sqrt() + 1e-3);
            }
            w
        };
        (0..start.len()).map(one).collect()
    };
    assert_close(p.get("w"), &update(p.get("w0"), [p.get("g1"), p.get("g2")], 0.1), 1e-5);
    assert_close(p.get("bias"), &update(p.get("b0"), [p.get("b"), p.get("b")], 0.0), 1e-5);
}

#[test]
fn adamw_leaves_parameters_without_gradient_alone_and_drops_gradients() {
    let said = run(r#"
        let m = nn::sequential([nn::linear(2, 2), nn::linear(2, 2)]);
        m.freeze("0.weight");
        let before = m.state_dict();
        let opt = optim::adamw(m, #{});
        let p = m.named_parameters();
        (p["1.weight"].sum() + p["0.bias"].sum()).backward();
        opt.step(0.1);
        for name in ["0.weight", "0.bias", "1.weight", "1.bias"] { print(p[name].equal(before[name])); }
        print(p["1.weight"].grad == ());
        "#);
    assert_eq!(said.values(), [true, false, false, true, true]);
}

#[test]
fn adamw_groups_scale_the_learning_rate_and_decay() {
    let said = run(r#"
        let m = nn::linear(2, 2);
        let opt = optim::adamw(m, #{}, |name, t| #{ lr_scale: if name == "bias" { 0.0 } else { 1.0 }, weight_decay: 0.0 });
        print(opt.groups().len());
        let before = m.state_dict();
        let p = m.named_parameters();
        (p.weight.sum() + p.bias.sum()).backward();
        opt.step(0.25);
        print((p.weight - before.weight).to_array());
        print((p.bias - before.bias).to_array());
        (p.weight.sum() + p.bias.sum()).backward();
        opt.step(|g| if "bias" in g.names { 0.5 } else { 0.0 });
        print((p.bias - before.bias).to_array());
        "#);
    let all = said.numbers();
    assert_eq!((all[0][0], &all[2]), (2.0, &vec![0.0, 0.0]));
    assert_close(&all[1], &[-0.25; 4], 1e-5);
    assert_close(&all[3], &[-0.5; 2], 1e-5);
}

#[test]
fn an_average_starts_at_the_parameters_and_moves_by_one_minus_decay() {
    let said = run(r#"
        let m = nn::layer_norm(1);
        let w = m.named_parameters().weight;
        let ema = optim::ema(m, 0.9);
        for v in [1.0, 2.0, 5.0] { w.copy_(tensor([v])); ema.update(); print(ema.state_dict().weight.item()); }
        print(ema.apply(|| w.item()));
        print(w.item());
        "#);
    assert_close(&said.numbers().concat(), &[1.0, 1.1, 1.49, 1.49, 5.0], 1e-6);
}

#[test]
fn the_cosine_schedule_warms_up_to_its_peak_and_ends_at_zero() {
    let said = run("let s = optim::cosine(#{ lr: 0.5, total_steps: 110, warmup_steps: 10 });\n\
         for i in [0, 5, 10, 35, 60, 110] { print(s.at(i)); }\n\
         let plain = optim::cosine(#{ total_steps: 10 }); print(plain.at(0)); print(plain.at(10));");
    let quarter = 0.25 * (1.0 + (PI * 0.25).cos());
    assert_close(&said.numbers().concat(), &[0.0, 0.25, 0.5, quarter, 0.25, 0.0, 1.0, 0.0], 1e-9);
}

#[test]
fn clipping_scales_all_gradients_by_their_common_norm() {
    let said = run(r#"
        let m = nn::linear(1, 2);
        let p = m.named_parameters();
        ((p.weight * tensor([[3.0], [0.0]])).sum() + (p.bias * tensor([0.0, 4.0])).sum()).backward();
        print(optim::grad_norm(m).item());
        print(optim::clip_grad_norm(m, 10).item());
        print(p.weight.grad.to_array() + p.bias.grad.to_array());
        print(optim::clip_grad_norm(m, 1.0).item());
        print(p.weight.grad.to_array() + p.bias.grad.to_array());
        m.zero_grad();
        print(p.weight.grad == ());
        "#);
    let all = said.values();
    assert_eq!((all[0].as_f64(), all[1].as_f64(), all[3].as_f64()), (Some(5.0), Some(5.0), Some(5.0)));
    let list = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    assert_close(&list(&all[2]), &[3.0, 0.0, 0.0, 4.0], 1e-6);
    assert_close(&list(&all[4]), &[0.6, 0.0, 0.0, 0.8], 1e-5);
    assert_eq!(all[5], true);
}

#[test]
fn freezing_takes_patterns_and_tells_a_pattern_without_match() {
    let script = format!(
        r#"
        let m = nn::vit_nepa({TINY});
        print(m.freeze("*embeddings.patch_embeddings*"));
        let p = m.named_parameters();
        let names = p.keys();
        print(names.filter(|n| !p[n].requires_grad).len());
        print(p["vit_nepa.embeddings.cls_token"].requires_grad);
        try {{ m.freeze("*embedings.patch*"); }} catch (e) {{ print(e.message.contains("no parameter matches")); }}
        "#
    );
    assert_eq!(run(&script).values(), [Value::from(2), 2.into(), true.into(), true.into()]);
}

#[test]
fn a_module_used_twice_has_its_parameters_once() {
    let said = run(r#"
        let l = nn::linear(2, 2);
        let m = nn::sequential([l, l]);
        print(m.num_parameters());
        let weight = l.named_parameters().weight;
        let before = weight.copy();
        let opt = optim::adamw(m, #{ weight_decay: 0.0 });
        weight.sum().backward();
        print(optim::grad_norm(m).item());
        opt.step(0.25);
        print((weight - before).to_array());
        "#);
    let all = said.numbers();
    assert_close(&all.concat(), &[6.0, 2.0, -0.25, -0.25, -0.25, -0.25], 1e-5);
}

/// Gradients of further backwards are added all at once; each leaf has its own in memory laid out as the leaf.
#[test]
fn gradients_that_come_after_others_belong_to_their_leaf_alone() {
    run(r#"
        let leaf = |values| tensor(values).requires_grad(true);
        // An expanded gradient.
        let a = leaf.call([1.0]);
        let w = zeros([100000]).requires_grad(true);
        a.sum().backward();
        (a.sum() + w.sum()).backward();
        w.grad.mul_(2.0);
        print([a.grad.item(), w.grad.sum().item()]);
        // A transposed one, and what an optimizer makes of it.
        let model = nn::define(#{ w: zeros([2, 3]) }, |m, x| (m.w.transpose(0, 1) * x).sum());
        a.sum().backward();
        (a.sum() + model.forward(tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))).backward();
        optim::sgd(model, #{ momentum: 0.0, weight_decay: 0.0 }).step(1.0);
        print(model.named_parameters().w.tolist());
        // One gradient of two leaves.
        let b = leaf.call([1.0, 1.0]);
        let c = leaf.call([1.0, 1.0]);
        for i in 0..3 { ((b + c) * 1.0).sum().backward(); a.sum().backward(); }
        print([b.grad.to_array(), c.grad.to_array()]);
        // A leaf that was frozen since.
        let b = leaf.call([2.0]);
        let c = leaf.call([3.0]);
        for i in 0..2 {
            let loss = (b * c).sum();
            if i == 1 { c.requires_grad(false); }
            loss.backward();
        }
        print([b.grad.item(), c.grad.item()]);
    "#)
    .prints(&["[2.0, 200000.0]", "[[-1.0, -3.0, -5.0], [-2.0, -4.0, -6.0]]", "[[3.0, 3.0], [3.0, 3.0]]", "[6.0, 2.0]"]);
}

#[test]
fn parameters_that_are_views_are_trained_and_averaged_as_others_are() {
    run(r#"
        let base = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        let model = nn::define(#{ part: base.narrow(1, 0, 2), turned: base.transpose(0, 1) }, |m, x| (m.part * x).sum() + (m.turned * x).sum());
        for kind in ["adamw", "sgd"] {
            let opt = optim::optimizer(kind, model, #{ weight_decay: 0.0 }, |name, tensor| #{});
            let before = model.named_parameters().turned.clone();
            model.forward(tensor(1.0)).backward();
            opt.step(1.0);
            let change = model.named_parameters().turned - before;
            print((change + 1.0).abs().max().item() < 1e-5);
        }
        let ema = optim::ema(model, 0.0);
        for i in 0..2 {
            for p in model.named_parameters().values() { p.copy_(p + 1.0); }
            ema.update();
            for name in ["part", "turned"] { print((ema.state_dict()[name] == model.named_parameters()[name]).all()); }
        }
    "#)
    .prints(&["true"; 6]);
}

/// Two stacks of two blocks are an encoder of four.
#[test]
fn stacks_of_blocks_after_each_other_count_as_one() {
    let said = run(r#"
        let c = #{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 4, num_attention_heads: 2 };
        let stack = || nn::blocks(c + #{ num_hidden_layers: 2 });
        let model = nn::vit_nepa(c, #{ encoder: nn::sequential([stack.call(), stack.call()]) });
        let x = randn([2, 3, 8, 8]);
        let all = model.encode(x, #{ hidden_states: true });
        print(all.hidden_states.len());
        print(all.hidden_states[1].equal(all.hidden_states[2]));
        print(model.final_norm(all.hidden_states[4]).equal(all.last_hidden_state));
        for k in 0..=4 {
            let some = model.encode(x, #{ hidden_states: true, blocks: k });
            if some.hidden_states.len() != k + 1 || !some.hidden_states[k].equal(all.hidden_states[k]) { print(`wrong at ${k}`); }
        }
        let ids = model.layer_ids();
        for name in ["encoder.0.layer.0", "encoder.0.layer.1", "encoder.1.layer.0", "encoder.1.layer.1"] {
            print(ids[`vit_nepa.${name}.layernorm_before.weight`]);
        }
    "#);
    said.succeeds();
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines, ["5", "false", "true", "1", "2", "3", "4"]);
}

#[test]
fn patches_of_images_that_are_not_square_have_no_guessed_grid() {
    run(r#"
        let c = #{ image_size: 28, patch_size: 7, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 };
        let conv = nn::conv2d(3, 8, #{ kernel_size: 7, stride: 7 });
        let own = nn::define(#{ conv: conv }, |m, x| m.conv.forward(x).flatten(2).transpose(1, 2));
        let model = nn::vit_nepa(c, #{ patch_embeddings: own });
        print(model.forward(randn([1, 3, 28, 28])).shape);
        model.forward(randn([1, 3, 14, 56]));
    "#)
    .fails(1)
    .prints(&["[1, 17, 8]"])
    .says(&["16 tokens", "of images [1, 3, 14, 56] float32, and does not say their grid", "the part `rotary`"]);
}
