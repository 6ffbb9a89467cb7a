//! Activation checkpointing: recomputed blocks give the same results, whatever they are made of.

use crate::common::*;

/// `compare(model, loss)`: the loss and all gradients of a model, with and without recomputation, from the same state
/// of the run's generator; prints whether all are equal to the bit, and the number of gradients.
const HELPERS: &str = r#"
    let results = |model, loss, again| {
        seed(5);
        model.recompute(again);
        let l = loss.call(model);
        l.backward();
        let all = #{ loss: l.detach(), drawn: tensor([rng_state().drawn]) };
        let p = model.named_parameters();
        for name in p.keys() { if p[name].grad != () { all[name] = p[name].grad.copy(); } }
        model.zero_grad();
        all
    };
    let compare = |model, loss| {
        let plain = results.call(model, loss, false);
        let again = results.call(model, loss, true);
        let same = plain.keys() == again.keys();
        for name in plain.keys() { same &= plain[name].equal(again[name]); }
        print([same, plain.len() - 2]);
    };
    let nepa = |model, images| {
        let out = model.encode(images);
        loss::next_embedding(out.last_hidden_state, out.input_embedding)
    };
    let images = randn([4, 3, 8, 8]);
"#;

fn compared(text: &str) -> Vec<serde_json::Value> {
    run(&format!("{HELPERS}\n{text}")).values()
}

/// Equal, with so many gradients.
fn same(gradients: usize) -> serde_json::Value {
    serde_json::json!([true, gradients])
}

/// The tiny model with everything random that there is.
fn random() -> String {
    format!("{TINY} + #{{ drop_path_prob: 0.2, pos_embed_rescale: 2.0, pos_embed_shift: 0.1, layerscale_value: 0.5 }}")
}

#[test]
fn loss_and_gradients_are_the_same_to_the_bit() {
    let said = compared(&format!(
        r#"
        let model = nn::vit_nepa({});
        compare.call(model, |m| nepa.call(m, images));
        compare.call(model, |m| autocast("bfloat16", || nepa.call(m, images)));
        // Two forward passes before one backward.
        compare.call(model, |m| nepa.call(m, images) + nepa.call(m, images * 0.5));
        "#,
        random()
    ));
    assert_eq!(said, [same(45), same(45), same(45)]);
}

#[test]
fn the_intermediate_loss_is_the_same_but_for_the_order_of_its_sums() {
    // The gradient at a block's output is loss + (residual + branch) in place of (loss + residual) + branch.
    let said = run(&format!(
        r#"{HELPERS}
        let model = nn::vit_nepa({});
        let loss = |m| {{
            let out = m.encode(images, #{{ hidden_states: true }});
            loss::next_embedding(out.last_hidden_state, out.input_embedding)
                + loss::next_embedding_intermediate(out.hidden_states, out.input_embedding)
        }};
        let plain = results.call(model, loss, false);
        let again = results.call(model, loss, true);
        print(plain.loss.equal(again.loss) && plain.keys() == again.keys());
        let worst = 0.0;
        for name in plain.keys() {{
            let of = ((plain[name] - again[name]).abs().max() / (plain[name].abs().max() + 1e-30)).item();
            if of > worst {{ worst = of; }}
        }}
        print(worst < 1e-5);
        "#,
        random()
    ));
    assert_eq!(said.values(), [true, true]);
}

#[test]
fn frozen_embeddings_and_frozen_blocks_do_not_hinder_it() {
    let said = compared(&format!(
        r#"
        let model = nn::vit_nepa({});
        model.freeze("*embeddings*");
        compare.call(model, |m| nepa.call(m, images));
        model.freeze("*layer.0.*");
        compare.call(model, |m| nepa.call(m, images));
        model.freeze("*encoder*");
        compare.call(model, |m| nepa.call(m, images));
        "#,
        random()
    ));
    assert_eq!(said, [same(42), same(22), same(2)]);
}

#[test]
fn blocks_of_a_script_are_computed_again_too() {
    let said = compared(&format!(
        r#"
        let own = nn::define(#{{ inner: nn::block({TINY} + #{{ drop_path_prob: 0.3 }}), gain: ones([8]) }}, |m, x| {{
            m.inner.forward(x * m.gain) + x
        }});
        let blocks = nn::blocks({TINY}, [own, nn::linear(8, 8)]);
        let model = nn::vit_nepa({TINY}, #{{ encoder: nn::sequential([blocks]) }});
        compare.call(model, |m| nepa.call(m, images));
        // Not only blocks: a module that gives its input back.
        let model = nn::blocks({TINY}, [nn::define(#{{ s: ones([1]) }}, |m, x| x), nn::linear(8, 8)]);
        compare.call(model, |m| (m.forward(randn([2, 5, 8])) * randn([2, 5, 8])).sum());
        "#
    ));
    assert_eq!(said, [same(28), same(2)]);
}

#[test]
fn a_block_that_is_used_several_times_gets_the_sum_of_its_gradients() {
    let said = compared(&format!(
        r#"
        let own = nn::block({TINY} + #{{ drop_path_prob: 0.3 }});
        let head = nn::linear(8, 8);
        let model = nn::sequential([nn::blocks({TINY}, [own, head, own, own, head]), head]);
        compare.call(model, |m| (m.forward(randn([2, 5, 8])) * randn([2, 5, 8])).sum());
        "#
    ));
    assert_eq!(said, [same(22)]);
}

/// Tensors and modules that a function captured are no parameters of the block.
#[test]
fn what_a_block_uses_besides_its_parameters_gets_its_gradients() {
    let said = run(&format!(
        r#"
        let x = randn([2, 5, 8]);
        let gradients = |again, trained_input| {{
            seed(4);
            let gain = randn([8]).requires_grad(true);
            let common = nn::linear(8, 8);
            let base = randn([8]).requires_grad(true);
            let bias = base * 3.0;                       // no leaf: computed outside of the block
            let own = |parts, uses| nn::define(parts, |m, x| if uses == "bias" {{ x + bias }} else {{
                common.forward(x * gain) + (if "s" in m {{ x * m.s }} else {{ x }})
            }});
            let model = nn::blocks({TINY}, [own.call(#{{ s: ones([8]) }}, "gain"), own.call(#{{}}, "bias"), own.call(#{{}}, "gain")]);
            model.recompute(again);
            let input = x.copy().requires_grad(trained_input);
            (model.forward(input) * x).sum().backward();
            let all = model.named_parameters() + #{{ gain: gain, base: base, input: input }};
            let inner = common.named_parameters();
            for name in inner.keys() {{ all[`common.${{name}}`] = inner[name]; }}
            for name in all.keys() {{ all[name] = all[name].grad; }}
            all
        }};
        for trained_input in [true, false] {{
            let plain = gradients.call(false, trained_input);
            let again = gradients.call(true, trained_input);
            print(plain.keys());
            for name in plain.keys() {{
                if (plain[name] == ()) != (name == "input" && !trained_input) {{ print(`${{name}} has no gradient`); }}
                if plain[name] == () {{ print(again[name] == ()); continue; }}
                print(plain[name].equal(again[name]));
            }}
        }}
        "#
    ));
    let keys = serde_json::json!(["base", "common.bias", "common.weight", "gain", "input", "layer.0.s"]);
    let once = [vec![keys], vec![true.into(); 6]].concat();
    assert_eq!(said.values(), [once.clone(), once].concat());
}

#[test]
fn a_block_may_use_what_was_computed_before_the_stack_or_in_it() {
    let said = run(&format!(
        r#"
        let x = randn([2, 5, 8]);
        let gradients = |again| {{
            seed(4);
            let base = randn([8]).requires_grad(true);
            let square = base * base;
            let embed = nn::linear(8, 8);
            let before = #{{ z: (), y: () }};
            let keep = nn::define(#{{ inner: nn::block({TINY}) }}, |m, x| m.inner.forward(x) * square);
            let skip = nn::define(#{{ s: ones([8]) }}, |m, x| x * m.s * square + before.z * before.z + before.y * before.y);
            let first = nn::blocks({TINY}, [keep]);
            let model = nn::blocks({TINY}, [skip, skip]);
            first.recompute(again);
            model.recompute(again);
            let z = embed.forward(x);
            before.z = z * z;
            before.y = first.forward(before.z);
            (model.forward(before.y) * x).sum().backward();
            let all = #{{ base: base }};
            for part in [first, model, embed] {{
                let p = part.named_parameters();
                for name in p.keys() {{ all[`${{name}} ${{part}}`] = p[name]; }}
            }}
            for name in all.keys() {{ all[name] = all[name].grad; }}
            all
        }};
        let plain = gradients.call(false);
        let again = gradients.call(true);
        print(plain.len() > 20 && plain.keys() == again.keys());
        // Sums in another order.
        for name in plain.keys() {{
            let most = (plain[name] - again[name]).abs().max().item();
            if !(most <= 1e-5 * plain[name].abs().max().item()) {{ print(`${{name}}: off by ${{most}}`); }}
        }}
        "#
    ));
    assert_eq!(said.values(), [true]);
}

#[test]
fn an_error_while_a_block_is_computed_again_is_shown_where_it_happens() {
    let line = "    if calls.n == 2 { x + ones([3]) } else { x * m.s }";
    let script = format!(
        "let calls = #{{ n: 0 }};\nlet own = nn::define(#{{ s: ones([8]) }}, |m, x| {{\n    calls.n += 1;\n{line}\n}});\n\
         let model = nn::blocks({TINY}, [own]);\nmodel.recompute(true);\n\
         let loss = model.forward(randn([1, 5, 8])).sum();\nloss.backward();"
    );
    run(&script).blames("recipe.rhai:4:25", line, &["in backward", "layer 0", "[1, 5, 8] float32 and [3] float32"]);
}

#[test]
fn after_an_error_in_backward_all_goes_on() {
    let said = run(&format!(
        r#"
        let calls = #{{ n: 0 }};
        let own = nn::define(#{{ s: ones([8]) }}, |m, x| {{
            calls.n += 1;
            if calls.n == 2 {{ throw "broken" }}
            x.matmul(ones([8, 8])) * m.s
        }});
        let model = nn::blocks({TINY}, [own]);
        model.recompute(true);
        let x = randn([1, 5, 8]);
        let l = autocast("bfloat16", || model.forward(x).sum());
        let before = rng_state();
        try {{ l.backward(); }} catch (e) {{ print(`"${{e}}"`); }}
        print(rng_state() == before);
        print(`"${{x.matmul(ones([8, 8])).dtype}}"`);
        print((ones([1]).requires_grad(true) * 2.0).requires_grad);
        model.forward(x).sum().backward();
        print(model.named_parameters()["layer.0.s"].grad != ());
        "#
    ));
    assert_eq!(
        said.values(),
        ["\"broken\"", "true", "\"float32\"", "true", "true"]
            .map(|v| serde_json::from_str::<serde_json::Value>(v).unwrap())
    );
}

#[test]
fn nothing_is_computed_again_in_evaluation_without_gradients_or_for_attentions() {
    let said = run(&format!(
        r#"
        let calls = #{{ n: 0 }};
        let own = nn::define(#{{ attention: nn::attention({TINY}) }}, |m, x| {{ calls.n += 1; x + m.attention.forward(x) }});
        let one = {TINY} + #{{ num_hidden_layers: 1 }};
        let model = nn::vit_nepa(one, #{{ layer: [own] }});
        model.recompute(true);
        let images = randn([2, 3, 8, 8]);
        let calls_of = |body| {{ calls.n = 0; body.call(); calls.n }};
        print(calls_of.call(|| model.forward(images).sum().backward()));
        print(calls_of.call(|| no_grad(|| model.forward(images))));
        print(calls_of.call(|| {{
            let out = model.encode(images, #{{ attentions: true, hidden_states: true }});
            print(out.attentions.len() + out.hidden_states.len());
            out.last_hidden_state.sum().backward();
        }}));
        model.train(false);
        print(calls_of.call(|| model.forward(images).sum().backward()));
        model.train(true);
        model.recompute(false);
        print(calls_of.call(|| model.forward(images).sum().backward()));
        "#
    ));
    assert_eq!(said.values(), [2, 1, 3, 1, 1, 1]);
}

#[test]
fn it_belongs_to_blocks() {
    let line = "m.recompute(true);";
    run(&format!("let m = nn::linear(2, 2);\n{line}")).blames(
        "recipe.rhai:2:3",
        line,
        &["recompute: expected a model made by nn::vit_nepa, or nn::blocks, found linear(2 -> 2)"],
    );
}
