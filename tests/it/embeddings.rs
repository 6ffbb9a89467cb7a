//! What is measured of embeddings against plain loops, and what hiding some of them from the blocks does.

use crate::common::*;
use serde_json::Value;

/// `target_std`, `effective_rank` and `target_cosine` of the map that a line of stdout holds.
fn stats(line: &str) -> [f64; 3] {
    let map: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("`{line}`: {e}"));
    ["target_std", "effective_rank", "target_cosine"].map(|name| map[name].as_f64().unwrap())
}

#[track_caller]
fn stats_of(script: &str) -> Vec<[f64; 3]> {
    let said = run(&format!("let show = |z| print(loss::embedding_stats(z).to_json());\n{script}"));
    said.succeeds();
    said.stdout.lines().map(stats).collect()
}

/// Eigenvalues of a symmetric matrix by Jacobi's rotations.
fn eigenvalues(mut a: Vec<Vec<f64>>) -> Vec<f64> {
    let n = a.len();
    for _ in 0..50 {
        for p in 0..n {
            for q in p + 1..n {
                let angle = 0.5 * (2.0 * a[p][q]).atan2(a[q][q] - a[p][p]);
                let (s, c) = angle.sin_cos();
                for row in a.iter_mut() {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                let (above, below) = a.split_at_mut(q);
                for (u, v) in above[p].iter_mut().zip(&mut below[0]) {
                    (*u, *v) = (c * *u - s * *v, s * *u + c * *v);
                }
            }
        }
    }
    (0..n).map(|i| a[i][i]).collect()
}

/// The three measures of `images` images of `n` rows, of which the first is left out.
fn naive(z: &[Vec<f64>], images: usize, n: usize) -> [f64; 3] {
    let d = z[0].len();
    let patches: Vec<Vec<&Vec<f64>>> = (0..images).map(|b| (1..n).map(|t| &z[b * n + t]).collect()).collect();
    let unit = |v: &Vec<f64>| -> Vec<f64> {
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.iter().map(|x| x / norm).collect()
    };
    let rows: Vec<&Vec<f64>> = patches.concat();
    let count = rows.len() as f64;
    let units: Vec<Vec<f64>> = rows.iter().map(|r| unit(r)).collect();
    let deviation = |c: usize| {
        let mean = units.iter().map(|u| u[c]).sum::<f64>() / count;
        (units.iter().map(|u| (u[c] - mean).powi(2)).sum::<f64>() / count).sqrt()
    };
    let std = (0..d).map(deviation).sum::<f64>() / d as f64 * (d as f64).sqrt();

    let mean: Vec<f64> = (0..d).map(|c| rows.iter().map(|r| r[c]).sum::<f64>() / count).collect();
    let covariance = |i: usize, j: usize| rows.iter().map(|r| (r[i] - mean[i]) * (r[j] - mean[j])).sum::<f64>();
    let gram = (0..d).map(|i| (0..d).map(|j| covariance(i, j)).collect()).collect();
    let singular: Vec<f64> = eigenvalues(gram).into_iter().map(|v| v.max(0.0).sqrt()).collect();
    let total: f64 = singular.iter().sum();
    let entropy: f64 = singular.iter().map(|s| s / total).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();

    let mut cosines = Vec::new();
    for image in &patches {
        for (i, a) in image.iter().enumerate() {
            for b in image.iter().skip(i + 1) {
                cosines.push(unit(a).iter().zip(unit(b)).map(|(x, y)| x * y).sum::<f64>());
            }
        }
    }
    [std, entropy.exp(), cosines.iter().sum::<f64>() / cosines.len() as f64]
}

#[test]
fn measures_of_embeddings_agree_with_plain_loops() {
    for (images, n, d) in [(3, 5, 4), (1, 3, 6), (2, 9, 5)] {
        let said = run(&format!(
            "let z = randn([{images}, {n}, {d}]) * linspace(0.1, 3.0, {d}) + linspace(-1.0, 2.0, {d});\n\
             print(loss::embedding_stats(z).to_json()); print(z.reshape([-1]).to_array());"
        ));
        said.succeeds();
        let lines: Vec<&str> = said.stdout.lines().collect();
        let z: Vec<f64> = serde_json::from_str(lines[1]).unwrap();
        let z: Vec<Vec<f64>> = z.chunks(d).map(<[f64]>::to_vec).collect();
        assert_close(&stats(lines[0]), &naive(&z, images, n), 1e-5);
    }
}

#[test]
fn equal_embeddings_have_collapsed_also_up_to_rounding() {
    let all = stats_of(
        "show.call(randn([1, 1, 16]).expand([4, 10, 16]));\n\
         show.call(zeros([2, 5, 8]));\n\
         show.call(randn([1, 1, 768]) * (1.0 + 1e-8 * randn([8, 50, 1])));\n\
         show.call((1.0 + 1e-9 * randn([8, 50, 32])).to(\"bfloat16\"));",
    );
    assert_close(&all[0], &[0.0, 1.0, 1.0], 1e-6);
    // No direction at all: nothing to compare, so no cosine.
    assert_close(&all[1], &[0.0, 1.0, 0.0], 1e-6);
    for collapsed in &all[2..] {
        assert_close(collapsed, &[0.0, 1.0, 1.0], 1e-5);
    }
}

#[test]
fn evenly_spread_embeddings_fill_every_direction() {
    // ±eᵢ: mean 0, each channel of variance 1/D, every pair orthogonal but the opposite ones.
    let all = stats_of(
        "show.call(cat([ones([1, 16]), eye(16), -eye(16)], 0).unsqueeze(0));\n\
         show.call(cat([ones([1, 16]), eye(16)], 0).unsqueeze(0));\n\
         show.call(randn([16, 257, 64]));",
    );
    assert_close(&all[0], &[1.0, 16.0, -1.0 / 31.0], 1e-5);
    // The mean of eᵢ takes one direction away, and 1/D² of each variance.
    assert_close(&all[1], &[(1.0f64 - 1.0 / 16.0).sqrt(), 15.0, 0.0], 1e-5);
    let [std, rank, cosine] = all[2];
    assert!((std - 1.0).abs() < 0.01 && rank > 62.0 && rank <= 64.0 && cosine.abs() < 0.005, "{:?}", all[2]);
}

#[test]
fn the_class_token_counts_in_no_measure_and_no_gradient_flows() {
    let said = run("let z = randn([3, 6, 8]);\n\
         let other = cat([100.0 * randn([3, 1, 8]), z.slice(1, 1, 6)], 1);\n\
         print(loss::embedding_stats(z) == loss::embedding_stats(other));\n\
         let z = z.requires_grad(true); loss::embedding_stats(z); print(z.grad == ());");
    assert_eq!(said.values(), [true, true]);
}

#[test]
fn the_rank_of_many_embeddings_is_that_of_evenly_spaced_ones() {
    // 3 of 4096 rows differ, at places that every 4th row misses.
    let all = stats_of(
        "let z = randn([1, 1, 8]).expand([4, 1025, 8]).copy();\n\
         show.call(z); z[0][2].copy_(randn([8])); z[1][3].copy_(randn([8])); show.call(z);",
    );
    assert_close(&[all[0][1], all[1][1]], &[1.0, 1.0], 1e-6);
    assert!(all[1][0] > all[0][0]);
}

#[test]
fn embeddings_without_a_class_token_are_measured_whole() {
    let said = run("let z = randn([3, 5, 8]);
        let whole = loss::embedding_stats(z, #{ class_token: false });
        let with_first = loss::embedding_stats(cat([zeros([3, 1, 8]), z], 1));
        print(whole == with_first);
        print(loss::embedding_stats(ones([1, 2, 4]), #{ class_token: false }).target_cosine);");
    assert_eq!(said.succeeds().stdout.lines().next(), Some("true"));
    assert_close(&[said.stdout.lines().nth(1).unwrap().parse().unwrap()], &[1.0], 1e-6);
    run("loss::embedding_stats(ones([1, 1, 4]), #{ class_token: false });").fails(1).says(&["of at least 2 patches"]);
}

#[test]
fn embeddings_of_another_shape_are_told() {
    let line = "loss::embedding_stats(zeros([2, 2, 8]));";
    run(line).blames("recipe.rhai:1:7", line, &["[B, N, D]", "at least 2 patches", "[2, 2, 8]"]);
}

// ---- hiding patches ----

/// A model, images [3, 3, 8, 8] and a mask that hides patches 1 and 3 of the first image, and 0 of the second.
fn masked() -> String {
    format!(
        "let m = nn::vit_nepa({TINY} + #{{ layerscale_value: 1.0 }}); let x = randn([3, 3, 8, 8]);\n\
         let mask = tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]) == 1;\n"
    )
}

#[test]
fn blocks_see_zeros_in_place_of_hidden_patches_and_targets_stay_whole() {
    let said = run(&(masked()
        + r#"
        let plain = m.encode(x, #{ hidden_states: true });
        let out = m.encode(x, #{ hidden_states: true, input_mask: mask });
        print(out.input_embedding.equal(plain.input_embedding));
        let seen = plain.input_embedding.masked_fill(cat([zeros([3, 1]) == 1.0, mask], 1).unsqueeze(2), 0.0);
        print(out.hidden_states[0].equal(seen));
        // What a token sees lies before it: outputs differ from the first hidden patch on.
        let same = (out.last_hidden_state - plain.last_hidden_state).abs().amax(2) == 0.0;
        print((same == (tensor([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]) == 1)).all());
        print(m.encode(x, #{ input_mask: zeros([3, 4]) == 1.0 }).last_hidden_state.equal(plain.last_hidden_state));
        print(m.encode(x, #{ input_mask: () }).last_hidden_state.equal(plain.last_hidden_state));
        "#));
    assert_eq!(said.values(), [true; 5]);
}

#[test]
fn hidden_patches_get_no_gradient_from_the_blocks() {
    let said = run(&(masked()
        + "let x = x.requires_grad(true);\n\
           m.encode(x, #{ input_mask: mask }).last_hidden_state.pow(2).sum().backward();\n\
           // Patches of 4 x 4: the second and the fourth of the first image are its right half.\n\
           let used = x.grad.abs().amax(1)[0];\n\
           print(used.slice(1, 0, 4).min().item() > 0.0 && used.slice(1, 4, 8).max().item() == 0.0);"));
    assert_eq!(said.values(), [true]);
}

#[test]
fn masks_that_do_not_fit_are_told() {
    for (mask, pieces) in
        [("zeros([3, 4])", ["[3, 4] bool", "[3, 4] float32"]), ("zeros([3, 5]) == 1.0", ["[3, 4] bool", "[3, 5] bool"])]
    {
        let line = format!("m.encode(x, #{{ input_mask: {mask} }});");
        run(&format!("{}{line}", masked())).blames("recipe.rhai:3:3", &line, &["input_mask", pieces[0], pieces[1]]);
    }
    let line = "m.encode(x, #{ input_mask: true });";
    run(&(masked() + line)).blames("recipe.rhai:3:16", line, &["input_mask", "expected a tensor or (), found true"]);
    let line = "m.encode(x, #{ input_maks: mask });";
    run(&(masked() + line)).blames("recipe.rhai:3:16", line, &["input_maks", "`input_mask`"]);
}
