//! Functions and layers under PyTorch's names against numbers that PyTorch recorded, and how they are called.

use crate::common::*;
use serde::Deserialize;

/// A call that PyTorch 2.15 recorded, values and gradients, with the inputs of `vectors.safetensors`.
#[derive(Deserialize)]
struct Case {
    id: usize,
    /// As it was written in Python.
    torch: String,
    /// The same call in a script.
    script: String,
    /// How many tensors it gives.
    outs: usize,
    /// The inputs whose gradients were recorded.
    grads: Vec<String>,
    inputs: Vec<String>,
}

fn fixture(name: &str) -> String {
    repository("tests/fixtures/torch").join(name).display().to_string()
}

const COMPARE: &str = r#"
    fn flat(value) {
        if is_tensor(value) { return [value]; }
        switch type_of(value) {
            "array" => { let all = []; for v in value { all += flat(v); } all }
            "ValuesAndIndices" => [value.values, value.indices],
            _ => [tensor(value)],
        }
    }
    fn differs(found, expected) {
        if found.shape != expected.shape { return `shape ${found.shape}, expected ${expected.shape}`; }
        if found.dtype != expected.dtype { return `${found.dtype}, expected ${expected.dtype}`; }
        let a = found.detach().to("float64");
        let b = expected.to("float64");
        let far = (a - b).abs() - (b.abs() + 1.0) * 2e-5;
        if found.numel > 0 && !(far.amax().item() <= 0.0) { return `off by ${(a - b).abs().amax().item()}`; }
        ()
    }
    fn on_device(v) { for name in v.keys() { v[name] = v[name].to(device()); } v }
    fn check(v, id, name, outs, grads, inputs, body) {
        try {
            let given = #{};
            for input in inputs {
                let t = v[input].copy();
                given[input] = if grads.contains(input) { t.requires_grad(true) } else { t };
            }
            let found = flat(body.call(given));
            if found.len() != outs { print(`${name}: ${found.len()} tensors, expected ${outs}`); }
            let loss = tensor(0.0);
            for (t, i) in found {
                let wrong = differs(t, v[`${id}.${i}`]);
                if wrong != () { print(`${name}: ${wrong}`); }
                if t.requires_grad { loss = loss + (t * linspace(0.5, 1.5, t.numel).reshape(t.shape)).sum(); }
            }
            if grads.len() > 0 { loss.backward(); }
            for input in grads {
                let grad = given[input].grad;
                let wrong = if grad == () { "none" } else { differs(grad, v[`${id}.grad.${input}`]) };
                if wrong != () { print(`${name}: gradient of ${input}: ${wrong}`); }
            }
        } catch (e) { print(`${name}: ${e.message}`); }
    }
"#;

#[test]
fn values_and_gradients_are_those_of_pytorch() {
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(fixture("cases.json")).unwrap()).unwrap();
    assert!(cases.len() > 440, "{}", cases.len());
    let mut script =
        format!("{COMPARE}\nlet v = on_device(checkpoint::tensors({:?}));\n", fixture("vectors.safetensors"));
    for Case { id, torch, script: call, outs, grads, inputs } in &cases {
        let bound: String = inputs.iter().map(|name| format!("let {name} = i.{name}; ")).collect();
        script += &format!("check(v, {id}, {torch:?}, {outs}, {grads:?}, {inputs:?}, |i| {{ {bound}{call} }});\n");
    }
    let said = run(&(script + "print(\"all done\");"));
    said.succeeds();
    assert_eq!(said.stdout.trim(), "all done", "{said}");
}

#[test]
fn batch_norm_keeps_statistics_as_pytorch_does() {
    let script = format!(
        r#"{COMPARE}
        let v = on_device(checkpoint::tensors({:?}));
        for name in ["plain", "cumulative"] {{
            let m = if name == "plain" {{ nn::batch_norm2d(3) }} else {{ nn::batch_norm2d(3, #{{ momentum: (), eps: 0.01 }}) }};
            let start = m.state_dict();
            start.weight = v[`${{name}}.weight`];
            start.bias = v[`${{name}}.bias`];
            m.load_state_dict(start);
            let outs = [0, 1, 2].map(|i| m.forward(v[`${{name}}.in${{i}}`]));
            for (out, i) in outs {{ print(differs(out, v[`${{name}}.out${{i}}`])); }}
            m.train(false);
            print(differs(m.forward(v[`${{name}}.in2`]), v[`${{name}}.eval`]));
            let state = m.state_dict();
            for buffer in ["running_mean", "running_var", "num_batches_tracked"] {{
                print(differs(state[buffer], v[`${{name}}.${{buffer}}`]));
            }}
        }}"#,
        fixture("batch_norm.safetensors")
    );
    let said = run(&script);
    said.succeeds();
    assert_eq!(said.stdout, "\n".repeat(14), "{said}");
}

#[test]
fn buffers_are_saved_loaded_and_averaged() {
    let said = run(r#"
        let make = || nn::sequential([nn::conv2d(3, 4, #{ kernel_size: 1 }), nn::batch_norm2d(4)]);
        let model = make.call();
        let ema = optim::ema(model, 0.5);
        print(model.named_parameters().len());
        print(model.state_dict().len());
        for i in 0..3 { model.forward(randn([8, 3, 4, 4]) + 5.0 * i); ema.update(); }
        let raw = model.state_dict();
        let averaged = ema.state_dict();
        print(averaged.keys() == raw.keys());
        print(averaged["1.num_batches_tracked"].item());
        print((averaged["1.running_mean"] - raw["1.running_mean"]).abs().max().item() > 1e-3);
        let mean = averaged["1.running_mean"].copy();      // apply swaps the averages themselves
        checkpoint::save(model, "m");
        let other = make.call();
        checkpoint::load_into(other, "m");
        let same = other.state_dict();
        for name in same.keys() { if !same[name].equal(raw[name]) { print(name); } }
        ema.apply(|| print(model.state_dict()["1.running_mean"].equal(mean)));
        print(model.state_dict()["1.running_mean"].equal(raw["1.running_mean"]));
        model.train(false);
        model.forward(randn([8, 3, 4, 4]));
        let after = model.state_dict();
        for name in after.keys() { if !raw[name].equal(after[name]) { print(name); } }"#);
    said.succeeds();
    assert_eq!(said.stdout, "4\n7\ntrue\n3\ntrue\ntrue\ntrue\n", "{said}");
}

#[test]
fn running_statistics_are_averaged_over_processes() {
    let folder = Folder::new();
    folder.write(
        "r.rhai",
        "let model = nn::batch_norm1d(2);
        let gradients = dist::gradients(model);
        let x = tensor([[1.0, 2.0], [3.0, 4.0]]) + 10.0 * dist::rank();
        gradients.backward(model.forward(x).sum());
        if dist::rank() == 0 { print(model.state_dict().running_mean.to_array()); }",
    );
    let said = folder.nepa(&["run", "r.rhai", "--nproc", "2", "--device", "cpu"]);
    said.succeeds();
    // A tenth of the mean of (2, 3) and (12, 13).
    assert!(said.stdout.contains("[0.7") && said.stdout.contains("0.8"), "{said}");
}

#[test]
fn dropout_draws_in_training_alone_and_again_from_the_same_seed() {
    let said = run("let x = ones([64, 100]);
        seed(3); let a = dropout(x, 0.25);
        seed(3); let b = dropout(x, 0.25);
        print(a.equal(b)); print(a.unique().numel); print(a.amax().item());
        let kept = (a > 0.0).float().mean().item();
        print(kept > 0.72 && kept < 0.78);
        print(dropout(x, 0.25, false).equal(x)); print(dropout(x, 1.0).sum().item());
        let m = nn::dropout2d(0.5);
        let y = m.forward(ones([40, 10, 3, 3])).flatten(2);
        print(y.amax(2).equal(y.amin(2)));
        m.train(false);
        print(m.forward(ones([4, 2, 3, 3])).sum().item());");
    said.succeeds();
    assert_eq!(said.stdout, "true\n2\n1.3333333730697632\ntrue\ntrue\n0.0\ntrue\n72.0\n", "{said}");
}

#[test]
fn random_tensors_have_their_distributions() {
    let said =
        run("let within = |t, mean, std| (t.mean().item() - mean).abs() < 0.05 && (t.std().item() - std).abs() < 0.05;
        print(within.call(normal(2.0, 0.5, [10000]), 2.0, 0.5));
        print(within.call(zeros([10000]).uniform_(-1.0, 1.0), 0.0, 0.577));
        print(within.call(init::trunc_normal_(zeros([10000]), 0.0, 1.0, -1.0, 1.0), 0.0, 0.5396));
        print(within.call(init::kaiming_normal_(zeros([100, 200]), #{ nonlinearity: \"relu\" }), 0.0, 0.1));
        print(within.call(bernoulli(full([10000], 0.3)), 0.3, 0.458));
        let drawn = multinomial(tensor([1.0, 0.0, 3.0]), 10000, true).bincount(#{ minlength: 3 });
        print(drawn[1].item() == 0 && (drawn[2].item() - 7500).abs() < 300);
        print(multinomial(ones([5, 4]), 4).sort().values.equal(arange(4).expand([5, 4])));
        print(randint(3, [1000]).unique().to_array());");
    said.succeeds();
    assert_eq!(said.stdout, "true\ntrue\ntrue\ntrue\ntrue\ntrue\ntrue\n[0, 1, 2]\n", "{said}");
}

#[test]
fn wrong_arguments_are_told_with_what_was_expected() {
    let cases = [
        ("smooth_l1_loss(x, x, #{ betta: 2.0 })", "unknown option `betta` of smooth_l1_loss; did you mean `beta`?"),
        ("smooth_l1_loss(x, x, \"mean\", twice.call())", "`reduction` is given twice"),
        ("smooth_l1_loss(x, #{ beta: 2.0 })", "smooth_l1_loss: `target` is missing: expected a tensor"),
        ("smooth_l1_loss(x, x, \"maen\")", "unknown value \"maen\"; did you mean `mean`?"),
        (
            "smooth_l1_loss(x, x, 3)",
            "smooth_l1_loss: `reduction`: expected one of none, mean, sum, found the integer 3",
        ),
        ("x.sum(\"a\")", "sum: `dim`: expected an int or an array of ints, found the string"),
        ("x.round(2)", "round: expected at most 1 arguments and a map"),
        ("x.softmax(0.5)", "softmax: `dim`: expected an integer, found the float 0.5"),
        ("interpolate(x, [4, 4], #{ mode: \"bilinaer\" })", "expected [B, C, L], [B, C, H, W]"),
        ("interpolate(ones([1, 1, 2, 2]), [4, 4], #{ mode: \"bilinaer\" })", "did you mean `bilinear`?"),
        ("pad(x, [1], #{ mode: \"mirror\" })", "pad: unknown mode \"mirror\""),
        ("mse_loss(x, ones([3]))", "mse_loss: expected input and target of one shape"),
        ("conv2d(ones([1, 1, 4, 4]), ones([1, 1, 3, 3]), #{ padding: \"smae\" })", "did you mean `same`?"),
        ("nn::batch_norm2d(3).forward(ones([2, 4, 3, 3]))", "expects floats [B, 3, H, W], found [2, 4, 3, 3] float32"),
        ("nn::batch_norm1d(3).forward(ones([1, 3]))", "needs more than one value for each channel in training"),
        ("nn::embedding(3, 2).forward(ones([2]))", "expects int64 indices, found [2] float32"),
        ("fft::fft(x).item()", "expected"),
        ("bincount(arange(3), 5)", "bincount: `weights`: expected a tensor"),
        (
            "x[tensor([true])]",
            "a mask must have the shape of the first dimensions of the tensor [2, 2] float32, found [1] bool",
        ),
        ("x[tensor([1.9])]", "expected int64 indices or a bool mask, found [1] float32"),
        ("x[tensor([1, 0]).to(\"uint8\")]", "expected int64 indices or a bool mask, found [2] uint8"),
        ("gaussian_nll_loss(x, x, x - 2)", "`var`: expected variances of at least 0, found a negative one"),
        ("gaussian_nll_loss(x, x, ones([3]))", "`var`: expected the shape of the input [2, 2] float32"),
        ("x & x", "&: expected bool or int tensors, found [2, 2] float32"),
        ("!x", "!: expected bool or int tensors, found [2, 2] float32"),
        ("bernoulli(x, 1.5)", "bernoulli: `p`: expected a probability in 0 to 1, found 1.5"),
        ("bernoulli(x, 0.0 / 0.0)", "bernoulli: `p`: expected a probability in 0 to 1, found NaN"),
        ("bernoulli(x * (0.0 / 0.0))", "bernoulli: expected probabilities in 0 to 1, found others among them"),
        ("softshrink(x, -0.5)", "softshrink: `lambd`: expected a number of at least 0, found -0.5"),
        ("celu(x, 0.0)", "celu: `alpha`: expected a number other than 0, found 0"),
        ("gelu(x, #{ approximate: \"tahn\" })", "gelu: unknown approximation \"tahn\"; did you mean `tanh`?"),
        ("nn::gelu(\"tahn\")", "gelu: unknown approximation \"tahn\"; did you mean `tanh`?"),
        ("nn::hardtanh(1.0, -1.0)", "hardtanh: expected min_val of at most max_val, found 1 and -1"),
        ("histc(x, 0)", "histc: expected at least 1 bin and min <= max, found 0 bins"),
        ("tensor([300], #{ dtype: \"int8\" })", "tensor: expected ints that fit into int8"),
        ("tensor([1e19], #{ dtype: \"int64\" })", "tensor: expected numbers that an int can hold, found 1"),
        ("rand([2], #{ dtype: \"int64\" })", "expected a dtype of floats, found int64"),
    ];
    let line = |call: &str| format!("try {{ print({call}); }} catch (e) {{ print(e.message); }}\n");
    let script: String = cases.iter().map(|(call, _)| line(call)).collect();
    let start = "let misspelt = || #{ betta: 2.0 };\nlet twice = || #{ reduction: \"sum\" };\nlet x = ones([2, 2]);\n";
    let folder = Folder::new();
    // The check before the run finds the names that are written out.
    folder.write("r.rhai", format!("{start}{script}"));
    folder
        .nepa(&["check", "r.rhai"])
        .fails(1)
        .says(&["unknown option `betta` of smooth_l1_loss; did you mean `beta`?"]);
    let said = run(&format!("{start}{}", script.replace("#{ betta: 2.0 }", "misspelt.call()")));
    said.succeeds();
    assert_eq!(said.stdout.lines().count(), cases.len(), "{said}");
    for (line, (call, message)) in said.stdout.lines().zip(cases) {
        assert!(line.contains(message), "{call}: {line}");
    }
}

#[test]
fn the_guide_for_pytorch_users_runs_and_names_what_there_is() {
    let text = std::fs::read_to_string(repository("docs/from-pytorch.md")).unwrap();
    let blocks: Vec<&str> = text.split("```rhai\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 6, "{}", blocks.len());
    let all: String = blocks.iter().map(|block| format!("{block}\n")).collect();
    // Functions stand at the top; each block has its own variables.
    run(&all).succeeds();
    let folder = Folder::new();
    let known = nepa::script::search::known();
    let reference = folder.nepa(&["api"]).succeeds().stdout.clone();
    let has = |name: &str| {
        let called = [format!("{name}("), format!("Tensor.{name}("), format!("{name} ->")];
        reference.lines().any(|line| called.iter().any(|start| line.starts_with(start.as_str())))
    };
    for entry in &known {
        for name in &entry.ours {
            assert!(has(name), "{} is said to be {name}, which is not in the reference", entry.torch);
        }
        assert!(!entry.ours.is_empty() || !entry.note.is_empty(), "{}: no reason is given", entry.torch);
    }
    let most_used = &known[..200];
    let here = most_used.iter().filter(|entry| !entry.ours.is_empty()).count();
    assert!(text.contains(&format!("{here} of them are here")), "{here} of the 200 are here");
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    assert!(readme.contains(&format!("{here} of the 200 most used")), "{here} of the 200 are here");
}

#[test]
fn the_reference_is_searched_by_pytorchs_names_and_by_words() {
    let folder = Folder::new();
    let cases: [(&str, &[&str]); 14] = [
        ("torch.nn.functional.layer_norm", &["Tensor.layer_norm(normalized_shape: array of int"]),
        ("F.gelu", &["Tensor.gelu(#approximate: string = \"none\")", "nn::gelu("]),
        ("nn.Linear", &["PyTorch's nn.Linear is nn::linear here", "nn::linear(inputs: int, outputs: int"]),
        ("torch.cat", &["cat(tensors: array of Tensor, dim: int = 0)"]),
        ("nn.BatchNorm2d", &["nn::batch_norm2d(num_features: int"]),
        ("x.view", &["reshape"]),
        ("torch.compile", &["no counterpart here"]),
        ("label smoothing", &["cross_entropy"]),
        ("stochastic depth", &["nn::drop_path"]),
        ("DataLoader", &["DataLoader, ImageFolder: data::loader, data::open"]),
        ("torch.utils.checkpoint", &["torch.utils.checkpoint: the option recompute: true\n"]),
        ("gradient accumulation", &["gradient_accumulation_steps: the option accumulate"]),
        ("torch.nn.parallel.DistributedDataParallel", &["DistributedDataParallel: --nproc N"]),
        ("run_nepa.py", &["run_nepa.py, scripts/pretrain: recipes/pretrain_vitb.rhai"]),
    ];
    for (text, expected) in cases {
        let said = folder.nepa(&["api", "--search", text]);
        said.succeeds();
        for line in expected {
            assert!(said.stdout.contains(line), "{text}: {line} is missing: {said}");
        }
    }
    folder
        .nepa(&["api", "--search", "sofmtax"])
        .fails(1)
        .says(&["nothing is called `sofmtax`", "did you mean `softmax`?"]);
    folder.nepa(&["api", "--search", "F.layernrm"]).fails(1).says(&["did you mean `"]);
}

#[test]
fn powers_and_remainders_are_operators_too() {
    let said = run(r#"
        let n = arange(4);
        print((2 ** n).tolist());
        print((2.0 ** n).tolist());
        print((n ** 2).tolist());
        print((n ** tensor([0, 1, 2, 3])).tolist());
        print((tensor([-3, 5]) % 4).tolist());
        print((7 % tensor([2.0, 4.0])).tolist());
        print(n.slice(0, 1).tolist());
        print(n.slice(0, -1).tolist());
    "#);
    let lines: Vec<&str> = said.succeeds().stdout.lines().collect();
    let ints = ["[1, 2, 4, 8]", "[1.0, 2.0, 4.0, 8.0]", "[0, 1, 4, 9]", "[1, 1, 4, 27]", "[1, 1]", "[1.0, 3.0]"];
    assert_eq!(lines, [&ints[..], &["[1, 2, 3]", "[3]"]].concat());
}
