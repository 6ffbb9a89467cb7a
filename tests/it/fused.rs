//! The fused operations of a block against its modules computed one by one: outputs, gradients, and what they refuse.

use crate::common::*;
use serde_json::Value;

/// Prints how far outputs and gradients of each configuration are from those of the modules in float32: `fused` and
/// `plain` in a dtype, relative to their norms.
const COMPARE: &str = r#"
let base = #{
    image_size: 24, patch_size: 8, hidden_size: 48, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 80,
    layerscale_value: 0.5,
};
let cases = #{
    plain: #{}, no_qk_norm: #{ qk_norm: false }, qk_affine: #{ qk_norm_affine: true, qk_norm_bias: true },
    qk_weight: #{ qk_norm_affine: true, qk_norm_bias: false }, qk_not_affine: #{ qk_norm_affine: false },
    gated: #{ use_gated_mlp: true, hidden_act: "silu" }, silu: #{ hidden_act: "silu" },
    no_qkv_bias: #{ qkv_bias: false }, no_rotary: #{ rope_theta: () }, no_layer_scale: #{ layerscale_value: () },
    classifier: #{ is_causal: false, num_labels: 5, drop_path_prob: 0.4 }, one_patch: #{ image_size: 8 },
    wide_heads: #{ num_attention_heads: 1 }, narrow_heads: #{ num_attention_heads: 12 },
    own_angles: #{ pos_embed_rescale: 2.0, pos_embed_images_per_draw: 2 },
    intermediate: #{ use_intermediate_loss: true }, odd_tokens: #{ image_size: 56 }, many_tokens: #{ image_size: 144 },
    very_wide_head: #{ hidden_size: 520, num_attention_heads: 1, num_hidden_layers: 1 },
};
let one = |model, images, dtype, fused| {
    nn::fused(fused);
    model.zero_grad();
    let state = rng_state();
    let out = autocast(dtype, || model.encode(images, #{ hidden_states: true }));
    let loss = (out.last_hidden_state * out.last_hidden_state.cos()).mean();
    for hidden in out.hidden_states { loss += hidden.sin().mean(); }
    loss.backward();
    rng_state(state);
    let all = [out.last_hidden_state.detach()];
    for parameter in model.named_parameters().values() { if parameter.grad != () { all.push(parameter.grad.clone()); } }
    all
};
let distance = |found, expected| {
    if found.len() != expected.len() { throw `${found.len()} gradients instead of ${expected.len()}`; }
    let all = [];
    for (tensor, i) in expected { all.push(((found[i] - tensor).norm() / (tensor.norm() + 1e-6)).item()); }
    #{ forward: all[0], mean: all.extract(1).reduce(|sum, x| sum + x, 0.0) / (all.len() - 1), worst: all.extract(1).reduce(|m, x| max(m, x), 0.0) }
};
for name in cases.keys() {
    seed(7);
    let model = nn::vit_nepa(base + cases[name]);
    for parameter in model.named_parameters().values() { parameter.copy_(parameter + randn(parameter.shape) * 0.1); }
    let images = randn([5, 3, model.config.image_size, model.config.image_size]);
    let truth = one.call(model, images, "float32", false);
    let found = #{ name: name };
    for dtype in ["float32", "bfloat16"] {
        let of = |fused| distance.call(one.call(model, images, dtype, fused), truth);
        found[dtype] = #{ fused: of.call(true), plain: of.call(false) };
    }
    print(found.to_json());
}
"#;

fn number(found: &Value, path: &[&str]) -> f64 {
    path.iter().fold(found, |value, key| &value[*key]).as_f64().unwrap()
}

#[test]
fn they_give_the_numbers_of_the_modules_in_every_configuration() {
    // By the kernels for this processor, those for older ones, and ATen's operations.
    for (threads, kernels) in [("1", None), ("2", None), ("2", Some("avx2")), ("1", Some("plain")), ("1", Some("0"))] {
        let folder = Folder::new();
        folder.write("recipe.rhai", COMPARE);
        let env: Vec<_> = kernels.iter().map(|kernels| ("NEPA_CPU_KERNELS", *kernels)).collect();
        let said = folder.nepa_with(&env, &["run", "recipe.rhai", "--device", "cpu", "--threads", threads]);
        let all = said.values();
        assert_eq!(all.len(), 19);
        for found in all {
            let of = |dtype, path, what| number(&found, &[dtype, path, what]);
            assert!(of("float32", "fused", "forward") < 1e-6, "{found}");
            assert!(of("float32", "fused", "worst") < 1e-5, "{found}");
            // In bfloat16 no further from float32 than the modules are, but for chance.
            for what in ["forward", "mean"] {
                let (fused, plain) = (of("bfloat16", "fused", what), of("bfloat16", "plain", what));
                assert!(plain > 1e-4 && fused < 1.25 * plain, "{what}: {found}");
            }
        }
    }
}

#[test]
fn a_model_says_how_its_blocks_are_computed_and_wrong_kernels_are_named() {
    let script = r#"
        let config = #{ image_size: 16, patch_size: 8, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2 };
        print(nn::fused_path(nn::vit_nepa(config)));
        let own = nn::block(config, #{ mlp: nn::linear(16, 16) });
        print(nn::fused_path(nn::vit_nepa(config, #{ encoder: nn::blocks(config, [own, nn::block(config)]) })));
        print(nn::fused_path(nn::linear(2, 2)));
        nn::fused(false);
        print(nn::fused_path(nn::vit_nepa(config)));
    "#;
    let with = |kernels| {
        let folder = Folder::new();
        folder.write("recipe.rhai", script);
        folder.nepa_with(&[("NEPA_CPU_KERNELS", kernels)], &["run", "recipe.rhai", "--device", "cpu"])
    };
    let rest = ["module by module", "module by module"];
    let of = |by| [format!("blocks fused{by}"), format!("3 of the 4 branches of its blocks fused{by}")];
    for (kernels, by) in [("plain", " (any processor)"), ("0", "")] {
        let [all, some] = of(by);
        with(kernels).prints(&[&all, &some, rest[0], rest[1]]);
    }
    with("avx1024").fails(1).says(&["NEPA_CPU_KERNELS", "expected avx512, avx2, plain or 0", "avx1024"]);
}

#[test]
fn frozen_parts_get_no_gradient_and_the_others_get_theirs() {
    let said = run(r#"
        let config = #{ image_size: 16, patch_size: 8, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2 };
        let frozen_in = |patterns, fused| {
            nn::fused(fused);
            seed(1);
            let model = nn::vit_nepa(config);
            for pattern in patterns { model.freeze(pattern); }
            let images = rand([2, 3, 16, 16]);
            (model.forward(images).square().mean() * 100.0).backward();
            let found = #{};
            let parameters = model.named_parameters();
            for name in parameters.keys() {
                let grad = parameters[name].grad;
                found[name] = if grad == () { "none" } else { fixed(grad.norm().item(), 4) };
            }
            found
        };
        for patterns in [["*query*"], ["*layer.0*", "*embeddings*"], ["*layer.1*"], ["*mlp*", "*output*"], ["*bias"]] {
            print(frozen_in.call(patterns, true) == frozen_in.call(patterns, false));
        }
    "#);
    said.prints(&["true"; 5]);
}

#[test]
fn a_graph_is_used_up_by_its_backward_and_told_of_a_changed_weight() {
    let begin = format!("let m = nn::vit_nepa({TINY}); let loss = m.forward(rand([2, 3, 8, 8])).square().mean();");
    run(&format!("{begin} loss.backward(); loss.backward();")).fails(1).says(&["second time"]);
    let change = "for p in m.named_parameters().values() { no_grad(|| p.copy_(p * 2.0)); }";
    run(&format!("{begin} {change} loss.backward();")).fails(1).says(&["modified by an inplace operation"]);
}

#[test]
fn angles_that_are_learned_get_their_gradient_and_wrong_ones_are_named() {
    let begin = r#"
        seed(1);
        let config = #{ image_size: 16, patch_size: 8, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2 };
        let blocks = nn::blocks(config);
        let x = randn([2, 5, 16]);
    "#;
    run(&format!(
        "{begin} let angles = rand([2, 4, 8]).requires_grad(true); blocks.forward(x, angles).square().sum().backward();\n\
         print(angles.grad.norm().item() > 0.0);"
    ))
    .prints(&["true"]);
    let told = ["expected rotary angles [2, T, 8] for T of at most 5 tokens"];
    run(&format!("{begin} blocks.forward(x, rand([2, 4, 6]));")).fails(1).says(&told);
    run(&format!("{begin} blocks.forward(x, rand([2, 1, 1, 4, 8]));")).fails(1).says(&told);
}

#[test]
fn tables_of_a_script_that_do_more_than_turn_are_as_the_modules_have_them() {
    let said = run(r#"
        let config = #{
            image_size: 16, patch_size: 8, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, qk_norm: true,
            qk_norm_affine: false, layerscale_value: 0.5,
        };
        let gradients = |tables, fused, change| {
            nn::fused(fused);
            seed(1);
            let blocks = nn::blocks(config);
            let x = randn([2, 4, 16]);
            let tables = tables.copy();
            let loss = (blocks.forward(x, tables) * randn([2, 4, 16])).sum();
            if change { no_grad(|| tables.copy_(rand([2, 4, 8]))); }
            loss.backward();
            cat(blocks.named_parameters().values().map(|p| p.grad.reshape([-1])), 0)
        };
        seed(3);
        let angles = randn([4, 4]);
        let turns = stack([cat([angles, angles], 1).cos(), cat([angles, angles], 1).sin()], 0);
        for tables in [turns, turns * 1.2, stack([randn([4, 8]), randn([4, 8])], 0)] {
            let plain = gradients.call(tables, false, false);
            let fused = gradients.call(tables, true, false);
            // Backward has the tables of forward.
            print([((fused - plain).norm() / plain.norm()).item() < 1e-5, gradients.call(tables, true, true).equal(fused)]);
        }
    "#);
    said.prints(&["[true, true]"; 3]);
    let odd = "#{ image_size: 16, patch_size: 8, hidden_size: 10, num_hidden_layers: 1, num_attention_heads: 2, rope_theta: () }";
    run(&format!("nn::blocks({odd}).forward(randn([1, 3, 10]), rand([2, 3, 5]));"))
        .fails(1)
        .says(&["rotary angles turn pairs: expected heads of an even width, found 5"]);
    // Rounding gives this width of a head one frequency too many.
    let wide = "#{ image_size: 16, patch_size: 8, hidden_size: 392, num_hidden_layers: 1, num_attention_heads: 2 }";
    run(&format!("print(nn::vit_nepa({wide}).forward(rand([1, 3, 16, 16])).shape);")).prints(&["[1, 5, 392]"]);
    run("nn::drop_path(0.5).forward(tensor(1.0));").fails(1).says(&["expected a tensor [B, …], found a scalar"]);
}

/// They are kept in bfloat16 from one use to the next.
#[test]
fn weights_that_have_changed_are_never_used_as_they_were() {
    let said = run(r#"
        let config = #{ image_size: 16, patch_size: 8, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2 };
        let images = rand([4, 3, 16, 16]);
        let embed = |model| autocast("bfloat16", || no_grad(|| model.encode(images).last_hidden_state));
        // A model that has never been used before has nothing that could be out of date.
        let is_new = |model| {
            let other = nn::vit_nepa(config);
            let own = model.named_parameters();
            let others = other.named_parameters();
            no_grad(|| { for name in own.keys() { others[name].copy_(own[name]); } });
            embed.call(model).equal(embed.call(other))
        };
        let train = |model, optimizer| {
            for i in 0..2 { autocast("bfloat16", || model.encode(images)).last_hidden_state.sin().sum().backward(); }
            optimizer.step(0.5);
        };
        for kind in ["adamw", "sgd", "lars", "lamb", "lion", "muon"] {
            let model = nn::vit_nepa(config);
            let ema = optim::ema(model, 0.5);
            let before = embed.call(model);
            train.call(model, optim::optimizer(kind, model, #{}, |name, tensor| #{}));
            let learned = !before.equal(embed.call(model)) && is_new.call(model);
            ema.update();
            train.call(model, optim::sgd(model, #{}));
            ema.update();
            let averaged = ema.apply(|| is_new.call(model));
            print([kind, learned, averaged, is_new.call(model)]);
            checkpoint::save(model, run::path("saved-" + kind));
            no_grad(|| { for p in model.named_parameters().values() { p.copy_(p * 2.0); } });
            let scaled = is_new.call(model);
            checkpoint::load_into(model, run::path("saved-" + kind));
            print([scaled, is_new.call(model)]);
        }
    "#);
    let expected: Vec<_> = ["adamw", "sgd", "lars", "lamb", "lion", "muon"]
        .into_iter()
        .flat_map(|kind| [format!(r#"["{kind}", true, true, true]"#), "[true, true]".to_string()])
        .collect();
    said.prints(&expected.iter().map(String::as_str).collect::<Vec<_>>());
}
