//! Modules that a script defines, alone and in the place of built-in ones.

use crate::common::*;
use serde_json::json;

/// A script with a module `scale` (x · s + linear(x)) of its own.
fn with_scale(script: &str) -> Said {
    let define = "let scale = || nn::define(#{ s: full([8], 2.0), inner: nn::linear(8, 8), power: 3 }, |m, x| x * m.s + m.inner.forward(x));\n";
    run(&format!("{define}let config = {TINY};\n{script}"))
}

#[test]
fn a_module_has_the_parameters_of_its_tensors_and_modules() {
    let said = with_scale(
        r#"
        let m = scale.call();
        print(m.named_parameters().keys());
        print(m.num_parameters());
        print(nn::sequential([m, nn::linear(8, 2)]).named_parameters().keys());
        print(m.named_parameters().s.requires_grad);
        "#,
    );
    let names = json!(["inner.bias", "inner.weight", "s"]);
    let nested = json!(["0.inner.bias", "0.inner.weight", "0.s", "1.bias", "1.weight"]);
    assert_eq!(said.values(), [names, json!(8 + 64 + 8), nested, json!(true)]);
}

#[test]
fn a_module_computes_what_its_function_says() {
    let said = with_scale(
        r#"
        let m = scale.call();
        let x = randn([2, 5, 8]);
        let inner = m.named_parameters();
        let expected = x * 2.0 + x.matmul(inner["inner.weight"].transpose(0, 1)) + inner["inner.bias"];
        print((m.forward(x) - expected).abs().max().item() < 1e-5);
        "#,
    );
    assert_eq!(said.values(), [true]);
}

#[test]
fn gradients_and_updates_reach_its_parameters() {
    let said = with_scale(
        r#"
        let m = nn::sequential([scale.call(), nn::linear(8, 1)]);
        let before = m.state_dict();
        let opt = optim::adamw(m, #{});
        m.forward(ones([4, 8])).pow(2).mean().backward();
        opt.step(0.1);
        for name in m.named_parameters().keys() { print(m.named_parameters()[name].equal(before[name])); }
        "#,
    );
    assert_eq!(said.values(), vec![json!(false); 5]);
}

#[test]
fn a_frozen_parameter_stays() {
    let said = with_scale(
        r#"
        let m = nn::sequential([scale.call(), nn::linear(8, 1)]);
        print(m.freeze("0.*"));
        let before = m.state_dict();
        let opt = optim::adamw(m, #{});
        m.forward(ones([4, 8])).pow(2).mean().backward();
        opt.step(0.1);
        let after = m.named_parameters();
        let names = after.keys();
        let changed = names.filter(|n| !after[n].equal(before[n]));
        changed.sort();
        print(changed);
        print(m.unfreeze("0.s"));
        print(m.named_parameters()["0.s"].requires_grad);
        "#,
    );
    assert_eq!(said.values(), [json!(3), json!(["1.bias", "1.weight"]), json!(1), json!(true)]);
}

#[test]
fn a_module_sees_whether_it_trains() {
    let said = with_scale(
        r#"
        let m = nn::sequential([nn::define(#{}, |m, x| if m.training { x } else { -x })]);
        let sign = || m.forward(ones([1])).item();
        print(sign.call());
        m.train(false);
        print(sign.call());
        m.train(true);
        print(sign.call());
        "#,
    );
    assert_eq!(said.values(), [1.0, -1.0, 1.0]);
}

#[test]
fn a_module_is_saved_and_loaded() {
    let said = with_scale(
        r#"
        let a = nn::sequential([scale.call(), nn::linear(8, 2)]);
        let b = nn::sequential([scale.call(), nn::linear(8, 2)]);
        let x = randn([3, 8]);
        print(a.forward(x).equal(b.forward(x)));
        checkpoint::save(a, "m");
        checkpoint::load_into(b, "m");
        print(a.forward(x).equal(b.forward(x)));
        let c = nn::sequential([scale.call(), nn::linear(8, 2)]);
        c.load_state_dict(a.state_dict());
        print(a.forward(x).equal(c.forward(x)));
        "#,
    );
    assert_eq!(said.values(), [false, true, true]);
}

#[test]
fn a_module_stands_in_for_a_blocks_attention_and_mlp() {
    let said = with_scale(
        r#"
        let b = nn::block(config + #{ rope_theta: (), layerscale_value: () }, #{ attention: scale.call(), mlp: scale.call() });
        let names = b.named_parameters().keys();
        print(names.filter(|n| n.starts_with("attention.") || n.starts_with("mlp.")).len());
        b.train(false);
        let x = randn([2, 5, 8]);
        let p = b.named_parameters();
        let own = |x, part| x * p[part + ".s"] + x.matmul(p[part + ".inner.weight"].transpose(0, 1)) + p[part + ".inner.bias"];
        let y = x + own.call(x.layer_norm([x.size(-1)], #{ eps: 1e-12 }), "attention");
        let y = y + own.call(y.layer_norm([y.size(-1)], #{ eps: 1e-12 }), "mlp");
        print((b.forward(x) - y).abs().max().item() < 1e-4);
        "#,
    );
    assert_eq!(said.values(), [json!(6), json!(true)]);
}

#[test]
fn a_module_stands_in_for_a_whole_block_and_gets_the_angles() {
    let said = with_scale(
        r#"
        let own = nn::define(#{}, |m, x| { print(m.rotary.shape); x });
        let blocks = nn::blocks(config, [own, nn::block(config)]);
        blocks.forward(ones([1, 5, 8]));
        let bare = nn::define(#{}, |m, x| { print(m.rotary == ()); x });
        bare.forward(ones([1]));
        nn::blocks(config + #{ rope_theta: () }, [bare]).forward(ones([1, 5, 8]));
        print(blocks.named_parameters().keys().all(|n| n.starts_with("layer.1.")));
        "#,
    );
    assert_eq!(said.values(), [json!([2, 4, 4]), json!(true), json!(true), json!(true)]);
}

#[test]
fn modules_stand_in_for_a_models_embedding_and_encoder() {
    let said = with_scale(
        r#"
        // A convolutional stem in place of patches: [B, 3, 8, 8] -> [B, 4, 8].
        let stem = nn::define(#{ conv: nn::conv2d(3, 8, #{ kernel_size: 3, stride: 4, padding: 1 }) },
            |m, x| m.conv.forward(x).flatten(2, 3).transpose(1, 2));
        let m = nn::vit_nepa(config, #{ patch_embeddings: stem, encoder: nn::sequential([scale.call()]) });
        let out = m.encode(ones([2, 3, 8, 8]));
        print(out.last_hidden_state.shape);
        print(m.named_parameters().keys());
        let loss = loss::next_embedding(out.last_hidden_state, out.input_embedding);
        loss.backward();
        print(m.named_parameters()["vit_nepa.encoder.0.s"].grad.shape);
        "#,
    );
    let names = json!([
        "vit_nepa.embeddings.cls_token",
        "vit_nepa.embeddings.patch_embeddings.conv.bias",
        "vit_nepa.embeddings.patch_embeddings.conv.weight",
        "vit_nepa.encoder.0.inner.bias",
        "vit_nepa.encoder.0.inner.weight",
        "vit_nepa.encoder.0.s",
        "vit_nepa.layernorm.bias",
        "vit_nepa.layernorm.weight"
    ]);
    assert_eq!(said.values(), [json!([2, 5, 8]), names, json!([8])]);
}

#[test]
fn a_models_built_in_blocks_work_on_an_own_embedding() {
    let said = with_scale(
        r#"
        let stem = nn::define(#{ conv: nn::conv2d(3, 8, #{ kernel_size: 4, stride: 4 }) },
            |m, x| m.conv.forward(x).flatten(2, 3).transpose(1, 2));
        let m = nn::vit_nepa(config, #{ patch_embeddings: stem });
        let plain = nn::vit_nepa(config);
        let weights = plain.state_dict();
        for part in ["weight", "bias"] {
            let name = "vit_nepa.embeddings.patch_embeddings.projection." + part;
            weights["vit_nepa.embeddings.patch_embeddings.conv." + part] = weights[name];
            weights.remove(name);
        }
        m.load_state_dict(weights);
        m.train(false);
        plain.train(false);
        let x = randn([2, 3, 8, 8]);
        print((m.forward(x) - plain.forward(x)).abs().max().item() < 1e-6);
        "#,
    );
    assert_eq!(said.values(), [true]);
}

#[test]
fn functions_of_the_script_and_captured_values_can_be_used() {
    let said = run(r#"
        fn double(x) { x * 2.0 }
        let factor = 3.0;
        let m = nn::define(#{}, |m, x| double(x) * factor);
        print(nn::sequential([m]).forward(ones([1])).item());
        "#);
    assert_eq!(said.values(), [6.0]);
}

#[test]
fn an_imported_file_can_make_modules() {
    let folder = Folder::new();
    folder.write(
        "parts/scale.rhai",
        "fn twice(x) { x * 2.0 }\n/// A module.\nfn make(n) {\n    nn::define(#{ s: ones([n]) }, |m, x| twice(x) * m.s)\n}\n",
    );
    let said =
        folder.run("import \"parts/scale\" as s;\nprint(nn::sequential([s::make(1)]).forward(ones([1])).item());");
    assert_eq!(said.values(), [2.0]);
}

#[test]
fn an_error_inside_shows_its_line_however_deep_it_sits() {
    let script = format!(
        "let own = nn::define(#{{ w: ones([7, 8]) }}, |m, x| {{\n    x.matmul(m.w)\n}});\n\
         let blocks = nn::blocks({TINY}, [nn::block({TINY}), nn::sequential([own])]);\n\
         let m = nn::vit_nepa({TINY}, #{{ encoder: blocks }});\nm.encode(zeros([1, 3, 8, 8]));"
    );
    let said = run(&script);
    said.blames("recipe.rhai:2:7", "    x.matmul(m.w)", &["7", "8", "from recipe.rhai:6:3"]);
}

#[test]
fn a_result_that_is_no_tensor_is_told_at_the_call() {
    let script = "let m = nn::define(#{}, |m, x| { let y = x; });\nm.forward(ones([1]));";
    run(script).blames("recipe.rhai:2:3", "m.forward(ones([1]));", &["must return a tensor, found ()"]);
}

#[test]
fn an_error_in_an_imported_modules_function_shows_that_file() {
    let folder = Folder::new();
    folder.write("part.rhai", "fn make() {\n    nn::define(#{}, |m, x| x + ones([3]))\n}\n");
    folder.run("import \"part\" as p;\nlet m = p::make();\nm.forward(ones([2]));").blames(
        "part.rhai:2:30",
        "    nn::define(#{}, |m, x| x + ones([3]))",
        &["recipe.rhai:3:3"],
    );
}

#[test]
fn parts_with_reserved_names_or_whole_numbers_are_told() {
    let line = "nn::define(#{ training: 1 }, |m, x| x);";
    run(line).blames("recipe.rhai:1:5", line, &["`training` is reserved"]);
    let line = "nn::define(#{ w: arange(3) }, |m, x| x);";
    run(line).blames("recipe.rhai:1:5", line, &["`w`", "[3] int64", "float"]);
}

#[test]
fn modules_in_an_array_are_not_silently_left_untrained() {
    // Either their parameters count, or the definition complains.
    let said = run(r#"
        try {
            let m = nn::define(#{ layers: [nn::linear(2, 2)] }, |m, x| x);
            print(m.num_parameters());
        } catch (e) {
            print(6);
        }
        "#);
    assert_eq!(said.values(), [6]);
}

#[test]
fn built_in_blocks_inside_a_script_module_see_the_rotary_angles_and_the_taps() {
    let script = r#"
        let c = #{ image_size: 8, patch_size: 4, num_channels: 1, hidden_size: 8, num_hidden_layers: 2, num_attention_heads: 2, layerscale_value: 1.0 };
        let plain = nn::blocks(c);
        let inner = nn::attention(c);
        let wrapped = nn::blocks(c, [nn::block(c, #{ attention: nn::define(#{ a: inner }, |m, x| m.a.forward(x)) })]);
        let direct = nn::blocks(c, [nn::block(c, #{ attention: inner })]);
        let values = direct.state_dict();
        let renamed = #{};
        for name in values.keys() { let to = name; to.replace("attention.attention", "attention.a.attention"); to.replace("attention.output", "attention.a.output"); renamed[to] = values[name]; }
        wrapped.load_state_dict(renamed);
        let x = randn([2, 5, 8]);
        print((wrapped.forward(x) - direct.forward(x)).abs().max().item() < 1e-6);

        let model = nn::vit_nepa(c, #{ encoder: nn::define(#{ b: plain }, |m, x| m.b.forward(x)) });
        let out = model.encode(randn([1, 1, 8, 8]), #{ hidden_states: true, attentions: true });
        print([out.hidden_states.len(), out.attentions.len()]);
    "#;
    run(script).succeeds().prints(&["true", "[3, 2]"]);
}

#[test]
fn a_stem_whose_tokens_form_no_square_is_told() {
    let script = "let stem = nn::define(#{ c: nn::conv2d(1, 8, #{ kernel_size: 7, stride: 7 }) }, |m, x| m.c.forward(x).flatten(2, 3).transpose(1, 2));\n\
        let model = nn::vit_nepa(#{ image_size: 28, patch_size: 7, num_channels: 1, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 }, #{ patch_embeddings: stem });\n\
        model.forward(ones([1, 1, 28, 42]));";
    run(script).blames("recipe.rhai:3:7", "model.forward(ones([1, 1, 28, 42]));", &["24 tokens", "square"]);
}

#[test]
fn modules_in_a_map_part_are_refused() {
    run("nn::define(#{ cfg: #{ k: nn::linear(2, 3) } }, |m, x| x);").fails(1).says(&["`cfg`", "recipe.rhai:1:5"]);
}

#[test]
fn private_functions_of_an_imported_script_are_not_offered() {
    let said = run("import \"std/finetune\" as finetune;\nfinetune::fitt(1, 2, #{});");
    said.fails(1).says(&["did you mean `fit`", "recipe.rhai:2:11"]);
    assert!(!said.stderr.contains("llrd_power"), "{}", said.stderr);
    run("import \"std/finetune\" as finetune;\nfinetune::llrd_power(\"a\", 1);").fails(1).says(&["recipe.rhai:2:11"]);
}

#[test]
fn the_optimizer_groups_parameters_by_name_patterns() {
    let script = r##"
        let m = nn::sequential([nn::linear(2, 2), nn::linear(2, 2)]);
        let start = m.state_dict();
        let opt = optim::adamw(m, #{ weight_decay: 0.0, groups: [#{ pattern: "0.*", lr_scale: 0.1 }] });
        m.forward(ones([1, 2])).sum().backward();
        opt.step(0.1);
        // AdamW's first step is the learning rate itself, whatever the gradient's size.
        let moved = |name| fixed((m.named_parameters()[name] - start[name]).abs().max().item(), 4);
        print([moved.call("0.bias"), moved.call("1.bias")]);
    "##;
    run(script).succeeds().prints(&[r#"["0.0100", "0.1000"]"#]);
    run("optim::adamw(nn::linear(2, 2), #{ groups: [#{ pattern: \"wieght\" }] });").fails(1).says(&[
        "wieght",
        "`weight`",
        "recipe.rhai:1:8",
    ]);
}
