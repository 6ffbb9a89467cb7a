//! Where results are easily wrong and nobody notices: half precision, numbers beside tensors, bounds, masks, against
//! PyTorch, which evaluates the same expressions.

use crate::common::*;
use crate::python_package::{python, shell};

/// The same for Python: options become keywords.
fn in_python(expression: &str) -> String {
    let dtypes = ["float16", "bfloat16", "float32", "float64", "int64", "int32", "uint8", "bool"];
    let plain = dtypes.iter().fold(expression.to_string(), |text, name| text.replace(&format!("\"{name}\""), name));
    let options = plain.replace(", #{ ", ", ").replace(" }", "").replace(": ", "=");
    options.replace("true", "True").replace("false", "False")
}

/// What both say of an expression of `t`, made by another one: "dtype [values] [gradient]", or "error".
fn evaluated(python: &str, cases: &[(String, String)]) -> Vec<(String, String)> {
    let folder = Folder::new();
    let ours: String = cases.iter().map(|(t, expression)| format!("say.call(|| {t}, |t| {expression});\n")).collect();
    let script = format!(
        "let nan = 0.0 / 0.0; let inf = 1.0 / 0.0;
        let say = |make, f| {{
            try {{
                let t = make.call();
                let grads = t.is_floating_point();
                if grads {{ t = t.requires_grad(true); }}
                let y = f.call(t);
                if grads && y.requires_grad {{ y.float().sum().backward(); }}
                let of = |x| if x == () {{ [] }} else {{ x.to_array() }};
                print(`${{y.dtype}} ${{of.call(y)}} ${{of.call(t.grad)}}`);
            }} catch {{ print(\"error\"); }}
        }};
        {ours}"
    );
    let theirs: String = cases
        .iter()
        .map(|(t, expression)| format!("say(lambda: {}, lambda t: {})\n", in_python(t), in_python(expression)))
        .collect();
    folder.write(
        "edges.py",
        format!(
            "import torch, torch.nn.functional as F, warnings
warnings.simplefilter('ignore')
globals().update({{k: v for k, v in [*vars(torch).items(), *vars(F).items()] if k[0] != '_'}})
def of(x):
    return [] if x is None else x.detach().reshape(-1).tolist()
def say(make, f):
    try:
        t = make()
        grads = t.is_floating_point()
        t.requires_grad_(grads)
        y = f(t)
        if grads and y.requires_grad: y.float().sum().backward()
        print(str(y.dtype).removeprefix('torch.'), of(y), of(t.grad))
    except Exception:
        print('error')
{theirs}"
        ),
    );
    let (ours, theirs) = (folder.run(&script), shell(&folder, python, "$python edges.py"));
    let lines = |said: &Said| said.succeeds().stdout.lines().map(str::to_string).collect::<Vec<_>>();
    let (ours, theirs) = (lines(&ours), lines(&theirs));
    assert_eq!((ours.len(), theirs.len()), (cases.len(), cases.len()));
    ours.into_iter().zip(theirs).collect()
}

/// Dtype, and every number of a line; bools are 0 and 1.
fn numbers(line: &str) -> (String, Vec<Vec<f64>>) {
    let (dtype, rest) = line.split_once(' ').unwrap_or((line, ""));
    let number = |text: &str| match text.to_lowercase().as_str() {
        "true" => 1.0,
        "false" => 0.0,
        text => text.parse().unwrap_or_else(|_| panic!("{text}: {line}")),
    };
    let lists = rest.split(']').map(|list| list.trim().trim_start_matches('['));
    let lists = lists.map(|list| list.split(", ").filter(|text| !text.is_empty()).map(number).collect());
    (dtype.to_string(), lists.collect())
}

/// Compares what both say, to a part of each value that the dtype's rounding may differ by, or to the bit.
#[track_caller]
fn assert_alike(cases: &[(String, String)], exactly: bool) {
    let Some(python) = python() else { return };
    let mut wrong = Vec::new();
    for ((t, expression), (ours, theirs)) in cases.iter().zip(evaluated(python, cases)) {
        let ((dtype, found), (wanted, expected)) = (numbers(&ours), numbers(&theirs));
        let step = match dtype.as_str() {
            _ if exactly => 0.0,
            "float16" => 2f64.powi(-10),
            "bfloat16" => 2f64.powi(-7),
            "float64" => 1e-12,
            _ => 2e-6,
        };
        let near = |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= step * b.abs();
        let alike = |(a, b): (&Vec<f64>, &Vec<f64>)| a.len() == b.len() && a.iter().zip(b).all(near);
        if dtype != wanted || found.len() != expected.len() || !found.iter().zip(&expected).all(alike) {
            wrong.push(format!("{expression} of {t}: {ours}\n    PyTorch: {theirs}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

const FLOATS: [&str; 4] = ["float16", "bfloat16", "float32", "float64"];

fn floats(dtype: &str) -> String {
    format!("tensor([-3.0, -0.5, 0.3, 2.0, 100.0, 10000.0], #{{ dtype: \"{dtype}\" }})")
}

#[test]
fn a_number_beside_a_tensor_counts_with_its_whole_precision() {
    let mut cases = Vec::new();
    let ints = ["int64", "int32", "uint8"].map(|dtype| format!("tensor([1, 2, 3, 7], #{{ dtype: \"{dtype}\" }})"));
    for t in FLOATS.map(floats).into_iter().chain(ints).chain(["tensor([true, false])".to_string()]) {
        for number in ["2", "(-3)", "0.3", "1e-8", "70000.0", "(-2.5)"] {
            for operator in ["+", "-", "*", "/", "%", "**", "==", "!=", "<", "<=", ">", ">="] {
                cases.push((t.clone(), format!("t {operator} {number}")));
                cases.push((t.clone(), format!("{number} {operator} t")));
            }
            for call in ["add", "sub", "mul", "div", "floor_divide", "remainder", "fmod", "pow", "eq", "lt", "ge"] {
                cases.push((t.clone(), format!("{call}(t, {number})")));
            }
            for call in ["add_", "sub_", "mul_", "div_"] {
                cases.push((t.clone(), format!("t.clone().{call}({number})")));
            }
        }
        for call in [
            "add(t, 1e-8, #{ alpha: 10000 })",
            "add(t, t, #{ alpha: 0.3 })",
            "sub(t, 3, #{ alpha: 2 })",
            "sub(t, t, #{ alpha: 3 })",
            "t.clone().add_(1e-8, #{ alpha: 10000 })",
            "t.clone().sub_(t, #{ alpha: 0.001 })",
            "div(t, 0.3, #{ rounding_mode: 'floor' })",
            "div(t, 2, #{ rounding_mode: 'trunc' })",
        ] {
            cases.push((t.clone(), call.replace('\'', "\"")));
        }
    }
    assert_alike(&cases, true);
}

#[test]
fn activations_have_the_values_and_gradients_of_pytorch_at_their_bounds() {
    let points = "-inf, -100.0, -30.0, -3.0, -1.0, -0.5, -1e-8, 0.0, 1e-8, 0.5, 1.0, 3.0, 6.0, 10.0, 11.5, 19.0, 30.0, \
                  100.0, inf, nan";
    let calls = "relu(t); relu6(t); hardtanh(t); hardtanh(t, -0.5, 3.0); leaky_relu(t, 0.1); leaky_relu(t, 0.0); \
                 leaky_relu(t, -0.5); elu(t); elu(t, 2.0); celu(t, 0.5); celu(t, -0.5); selu(t); softplus(t); \
                 softplus(t, 2.0, 3.0); softplus(t, -1.0); softshrink(t); hardshrink(t); hardswish(t); hardsigmoid(t); \
                 silu(t); mish(t); gelu(t); gelu(t, #{ approximate: \"tanh\" }); softsign(t); tanhshrink(t); \
                 logsigmoid(t); threshold(t, 1.0, 7.0); abs(t); clamp(t, -1.0, 1.0); clamp(t, #{ max: 3.0 }); \
                 normalize(t.nan_to_num(0.5, 2.0, -2.0), #{ dim: 0 })";
    let cases = ["float32", "bfloat16", "float16"].iter().flat_map(|dtype| {
        let t = format!("tensor([{points}], #{{ dtype: \"{dtype}\" }})");
        calls.split("; ").map(move |call| (t.clone(), call.to_string()))
    });
    assert_alike(&cases.collect::<Vec<_>>(), false);
}

#[test]
fn factors_of_products_are_not_rounded_and_do_not_overflow() {
    let mut cases = Vec::new();
    for dtype in FLOATS {
        for call in [
            "addcmul(t, t, t, #{ value: 0.001 })",
            "addcdiv(t, t, t + 1, #{ value: 1e-8 })",
            "addmm(t.reshape([2, 3]), ones_like(t).reshape([2, 3]) * 300, ones_like(t)[0].expand([3, 3]) * 300, \
             #{ beta: 0.3, alpha: 0.001 })",
            "baddbmm(t.reshape([1, 6, 1]), t.reshape([1, 6, 1]), t[3].reshape([1, 1, 1]), #{ alpha: 0.001 })",
            "addmm(t[0], t.reshape([6, 1]), t.reshape([1, 6]), #{ beta: 0, alpha: 2 })",
            "index_add(t, 0, tensor([0, 0, 1]), t[0] * tensor([1.0, 2.0, 3.0]).type_as(t), #{ alpha: 0.3 })",
            "lerp(t, t * 2, 1e-8)",
            "multilabel_soft_margin_loss(t.reshape([2, 3]), (t > 1).type_as(t).reshape([2, 3]), #{ reduction: \"none\" })",
            "where(t > 0, t, 0.1)",
        ] {
            cases.push((floats(dtype), call.to_string()));
        }
    }
    assert_alike(&cases, false);
}

#[test]
fn masks_indices_bits_and_what_is_counted_are_pytorchs() {
    let of = |t: &str, calls: &[&str]| calls.iter().map(|call| (t.to_string(), call.to_string())).collect::<Vec<_>>();
    let rows = of(
        "tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])",
        &[
            "t[tensor([true, false, true])]",
            "t[t > 4]",
            "t[tensor([true, false])]",
            "t[tensor([[true], [false], [true]])]",
            "t[tensor([-1, 0, -1])]",
            "t[tensor([[0, 1], [2, 2]])]",
            "t[tensor(1)]",
            "t[tensor([1, 1], #{ dtype: \"int32\" })]",
            "t[tensor([1.0])]",
            "t[tensor([3])]",
            "gaussian_nll_loss(t, t * 2, tensor([1.0, 4.0, 1e-9]), #{ reduction: \"none\" })",
            "gaussian_nll_loss(t, t * 2, tensor([[1.0], [4.0], [9.0]]), #{ full: true, reduction: \"none\" })",
            "gaussian_nll_loss(t, t * 2, tensor([[1.0, 4.0, 9.0]]))",
            "gaussian_nll_loss(t * 2, t, t)",
            "gaussian_nll_loss(t, t * 2, t - 2)",
            "gaussian_nll_loss(t, t * 2, tensor(1.0))",
            "gaussian_nll_loss(t, t * 2, tensor([1.0, 2.0]))",
            "scatter_reduce(t, 1, tensor([[0, 0, 1], [2, 2, 2]]), t * 2, \"mean\", #{ include_self: false })",
            "scatter_reduce(t, 0, tensor([[0, 0, 1]]), t * 2, \"amax\")",
            "scatter_reduce(t, -1, tensor([[0, 0], [1, 1]]), t * 2, \"prod\")",
            "trapezoid(t, #{ dx: 0.5, dim: 0 })",
            "trapezoid(t[0].narrow(0, 0, 0))",
        ],
    );
    let ints = of(
        "tensor([3, 4, 6, 7, 12])",
        &[
            "t & tensor(6)",
            "t | tensor([1, 2, 3, 4, 5])",
            "t & (t > 3)",
            "(t > 3) | (t < 7)",
            "t & tensor(1.0)",
            "scatter_reduce(zeros_like(t), 0, tensor([0, 0, 1, 1, 1]), t, \"mean\")",
            "scatter_reduce(t, 0, tensor([0, 0, 1, 1, 1]), -t, \"mean\", #{ include_self: false })",
            "tensor([9007199254740993, 1], #{ dtype: \"int64\" })",
            "tensor([9007199254740993, 1.7, -1.7], #{ dtype: \"int64\" })",
            "tensor([0.1, 1e300, 16777217.0], #{ dtype: \"float64\" })",
            "as_tensor([0.1, 9007199254740993], #{ dtype: \"float64\" })",
            "zeros([1], #{ dtype: \"float64\" }).new_tensor([0.1])",
            "tensor([0.1, 70000.0], #{ dtype: \"float16\" })",
            "tensor([128], #{ dtype: \"uint8\" })",
            "tensor([nan], #{ dtype: \"int64\" })",
            "searchsorted(t, 5.5)",
            "searchsorted(t, 6, #{ right: true })",
        ],
    );
    let counts = of(
        "arange(1000).float() * 0.003",
        &[
            "histc(t.detach(), 10, 0, 3)",
            "histc(t.detach(), 7, 0, 2)",
            "histc(t.detach(), 30, 1, 1)",
            "histc(t.detach(), 3, -1, 0.5)",
            "histc(t.detach(), 0)",
        ],
    );
    let half = of("(arange(900) / 8).to(\"bfloat16\")", &["histc(t.detach(), 9, 0, 90)"]);
    assert_alike(&[rows, ints, counts, half].concat(), false);
}

/// Those above that matter most, as PyTorch 2.11 gives them, for where there is no Python.
#[test]
fn what_pytorch_gives_is_known_without_it() {
    let cases = [
        ("tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])[tensor([true, false, false])].tolist()", "[[1, 2, 3]]"),
        (
            "gaussian_nll_loss(tensor([[1.0, 2.0], [3.0, 4.0]]), zeros([2, 2]), tensor([1.0, 4.0]), #{ reduction: \"none\" }) \
             .allclose(tensor([[0.5, 2.0], [1.125, 2.0]]) + 0.5 * tensor([[1.0], [4.0]]).log())",
            "true",
        ),
        ("(1e-8 * tensor([10000.0]).to(\"float16\")).item()", "0.00010001659393310547"),
        ("(70000 * tensor([0.5]).to(\"float16\")).item()", "35008.0"),
        ("tensor([10000.0]).to(\"float16\").mul(1e-8).item()", "0.00010001659393310547"),
        ("tensor([10000.0]).to(\"float16\").mul_(1e-8).item()", "0.00010001659393310547"),
        ("tensor([11.5]).to(\"float16\").softplus().item()", "11.5"),
        (
            "{ let x = tensor([0.0, 6.0, 3.0]).requires_grad(true); x.relu6().sum().backward(); x.grad.tolist() }",
            "[0.0, 0.0, 1.0]",
        ),
        (
            "{ let x = tensor([-1.0, 1.0, 0.0]).requires_grad(true); x.hardtanh().sum().backward(); x.grad.tolist() }",
            "[0.0, 0.0, 1.0]",
        ),
        (
            "{ let m = nn::relu6(); let x = tensor([0.0, 6.0, 3.0]).requires_grad(true); m.forward(x).sum().backward(); x.grad.tolist() }",
            "[0.0, 0.0, 1.0]",
        ),
        ("zeros([3]).long().scatter_reduce(0, tensor([0, 0, 1]), tensor([3, 4, 7]), \"mean\").tolist()", "[2, 3, 0]"),
        (
            "[(tensor([6]) & tensor([3])).item(), (tensor([6]) | tensor([1])).item(), (!tensor([6])).item()]",
            "[2, 7, -7]",
        ),
        ("[(!tensor([true])).item(), (tensor([true]) & tensor([false])).item()]", "[false, false]"),
        ("tensor([1.0, 1.0, 2.0]).histc(2, 1.0, 1.0).tolist()", "[2.0, 1.0]"),
        ("tensor([0.1], #{ dtype: \"float64\" }).item()", "0.1"),
        ("tensor([9007199254740993], #{ dtype: \"int64\" }).item()", "9007199254740993"),
        ("trapezoid(zeros([0])).item()", "0.0"),
    ];
    let script: String = cases.map(|(call, _)| format!("print({call});\n")).concat();
    let said = run(&script);
    let lines: Vec<&str> = said.succeeds().stdout.lines().collect();
    assert_eq!(lines.len(), cases.len(), "{said}");
    for (line, (call, expected)) in lines.iter().zip(cases) {
        assert_eq!(*line, expected, "{call}");
    }
}

#[test]
fn a_query_that_may_attend_to_nothing_gives_nothing_with_dropout_too() {
    let said = run("let q = ones([1, 1, 2, 4]).requires_grad(true);
        let mask = tensor([[true, true], [false, false]]);
        let added = where(mask, 0.0, -1.0 / 0.0);
        for m in [mask, added] {
            let y = scaled_dot_product_attention(q, q, q, #{ attn_mask: m, dropout_p: 0.5 });
            print(y[[0, 0, 1]].tolist());
            y.sum().backward();
            print(y.is_finite() && q.grad.is_finite());
        }");
    said.succeeds();
    assert_eq!(said.stdout, "[0.0, 0.0, 0.0, 0.0]\ntrue\n".repeat(2), "{said}");
}

#[test]
fn uniform_numbers_of_half_precision_stay_below_one() {
    let said = run(r#"
        for dtype in ["float16", "bfloat16", "float64"] {
            let drawn = [rand([300, 1000], #{ dtype: dtype }), rand_like(zeros([300, 1000], #{ dtype: dtype }))];
            print(drawn.map(|t| t.dtype == dtype && t.max().item() < 1.0 && (t.float().mean().item() - 0.5).abs() < 0.01));
        }"#);
    said.succeeds();
    assert_eq!(said.stdout, "[true, true]\n".repeat(3), "{said}");
}

/// PyTorch's trunc_normal_(std=1) has the deviation 0.8796; deviations far from the cuts draw normal numbers.
#[test]
fn initial_weights_of_large_deviation_are_truncated_not_clamped() {
    let said = run("
        let weight = |range| nn::linear(1000, 300, #{ initializer_range: range }).named_parameters().weight;
        let w = weight.call(1.0);
        print((w.std().item() - 0.8796).abs() < 0.005 && w.mean().abs().item() < 0.01);
        print((w.abs() == w.abs().max()).sum().item() == 1 && w.abs().max().item() < 2.0);
        seed(3); let w = weight.call(0.02);
        seed(3); print(w.equal(randn([300, 1000]) * 0.02));
        let far = init::trunc_normal_(zeros([3000, 1000]), #{ std: 0.02 });
        print(far.abs().max().item() < 0.15 && (far.std().item() - 0.02).abs() < 1e-4);");
    said.succeeds();
    assert_eq!(said.stdout, "true\n".repeat(4), "{said}");
}
