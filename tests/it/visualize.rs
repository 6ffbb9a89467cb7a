//! std/visualize and its recipe: maps against the reference's numbers and against sums done here, pictures by pixels.

use crate::common::*;
use safetensors::SafeTensors;

const MODEL: &str = "gelu-affine";
/// Patches in a row and a column of the golden models, and tokens with the class token.
const SIDE: usize = 4;
const TOKENS: usize = 17;

fn floats(bytes: &[u8], name: &str) -> Vec<f64> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let data =
        file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}; there are {:?}", file.names())).data().to_vec();
    data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
}

fn golden_numbers(name: &str) -> Vec<f64> {
    floats(&std::fs::read(format!("{}/io.safetensors", golden(MODEL))).unwrap(), name)
}

/// A script with the golden model and its first image, whose prints are arrays of numbers.
fn script(body: &str) -> Said {
    let dir = golden(MODEL);
    run(&format!(
        r#"import "std/visualize" as visualize;
        let model = checkpoint::load("{dir}");
        let image = checkpoint::tensors("{dir}/io.safetensors").pixel_values[0..1].to(device());
        let show = |map| print(map.flatten(0, -1).to_array());
        {body}"#
    ))
}

/// Attention of one head of the first image from a patch to all patches.
fn head(layer: usize, head: usize, patch: usize) -> Vec<f64> {
    let all = golden_numbers(&format!("attentions.{layer}"));
    let from = (head * TOKENS + patch + 1) * TOKENS;
    all[from + 1..from + TOKENS].to_vec()
}

#[test]
fn attention_is_that_of_the_reference_by_every_reduction() {
    let patch = 2 * SIDE + 3;
    let reduced = |layer: usize, by: fn(&[f64]) -> f64| -> Vec<f64> {
        let heads: Vec<Vec<f64>> = (0..4).map(|h| head(layer, h, patch)).collect();
        (0..SIDE * SIDE).map(|i| by(&[heads[0][i], heads[1][i], heads[2][i], heads[3][i]])).collect()
    };
    let mean: fn(&[f64]) -> f64 = |v| v.iter().sum::<f64>() / 4.0;
    let max: fn(&[f64]) -> f64 = |v| v.iter().copied().fold(0.0, f64::max);
    let said = script(
        r#"for heads in ["mean", "max", "none"] {
            for m in visualize::maps(model, image, 2, 3, #{ layers: "0,2", heads: heads }) {
                if m.kind == "attention" { show.call(m.map); }
            }
        }
        show.call(visualize::maps(model, image, 2, 3, #{ average: true })[0].map);"#,
    );
    let found = said.numbers();
    assert_eq!(found.len(), 2 + 2 + 8 + 1, "{said}");
    let mut expected = vec![reduced(0, mean), reduced(2, mean), reduced(0, max), reduced(2, max)];
    expected.extend([0, 2].into_iter().flat_map(|layer| (0..4).map(move |h| head(layer, h, patch))));
    // The mean of the layers, then of the heads.
    let layers: Vec<Vec<f64>> = (0..3).map(|layer| reduced(layer, mean)).collect();
    expected.push((0..16).map(|i| layers.iter().map(|l| l[i]).sum::<f64>() / 3.0).collect());
    for (found, expected) in found.iter().zip(&expected) {
        assert_close(found, expected, 1e-5);
    }
    // Causal: what comes after the patch is not seen.
    assert!(found[0][patch + 1..].iter().all(|v| *v == 0.0), "{found:?}");
}

/// The softmax over patches of the cosines between what is predicted at a patch and every patch's embedding.
fn softmax_of_cosines(patch: usize) -> Vec<f64> {
    let (h, z) = (golden_numbers("last_hidden_state"), golden_numbers("input_embedding"));
    let width = h.len() / (2 * TOKENS);
    let row = |all: &[f64], token: usize| all[token * width..(token + 1) * width].to_vec();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let predicted = row(&h, patch + 1);
    let cosine = |token: usize| {
        let embedded = row(&z, token);
        dot(&predicted, &embedded) / (dot(&predicted, &predicted) * dot(&embedded, &embedded)).sqrt()
    };
    let exps: Vec<f64> = (1..TOKENS).map(|token| cosine(token).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

#[test]
fn the_prediction_is_a_softmax_of_cosines_with_every_patch() {
    let said = script(
        r#"for at in [[0, 0], [1, 2], [3, 3]] {
            show.call(visualize::maps(model, image, at[0], at[1], #{ layers: "last" })[1].map);
        }"#,
    );
    for (found, patch) in said.numbers().iter().zip([0, 6, 15]) {
        assert_close(found, &softmax_of_cosines(patch), 1e-5);
        assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{found:?}");
    }
}

#[test]
fn top_p_keeps_the_smallest_set_that_is_enough_and_divides_by_its_sum() {
    let said = script(
        r#"for p in [0.05, 0.3, 0.5, 0.9] {
            show.call(visualize::maps(model, image, 1, 2, #{ layers: "last", top_p: p })[1].map);
        }"#,
    );
    let all = softmax_of_cosines(6);
    let mut order: Vec<usize> = (0..16).collect();
    order.sort_by(|a, b| all[*b].total_cmp(&all[*a]));
    for (found, p) in said.numbers().iter().zip([0.05, 0.3, 0.5, 0.9]) {
        let enough = (1..=16).find(|n| order[..*n].iter().map(|i| all[*i]).sum::<f64>() >= p).unwrap();
        let sum: f64 = order[..enough].iter().map(|i| all[*i]).sum();
        let expected: Vec<f64> =
            (0..16).map(|i| if order[..enough].contains(&i) { all[i] / sum } else { 0.0 }).collect();
        assert_close(found, &expected, 1e-5);
    }
}

#[test]
fn places_that_are_not_there_are_refused() {
    let fails = |body: &str, pieces: &[&str]| {
        script(body).fails(1).says(pieces);
    };
    let outside = ["row 4, column 0 is outside the 4 x 4 patches"];
    fails("visualize::maps(model, image, 4, 0, #{});", &outside);
    fails(r#"visualize::patches("4,0", [4, 4], 0);"#, &outside);
    fails(r#"visualize::patches("1;2", [4, 4], 0);"#, &[r#"expected "row,column" such as "3,5""#, r#"found "1""#]);
    fails(r#"visualize::patches("random 17", [4, 4], 0);"#, &["a number from 1 to 16", "random 17"]);
    fails(r#"visualize::patches("", [4, 4], 0);"#, &["found nothing"]);
    fails(r#"visualize::maps(model, image, 0, 0, #{ layers: "3" });"#, &["expected layers 0 to 2, found 3"]);
    fails(r#"visualize::maps(model, image, 0, 0, #{ layers: "first" });"#, &[r#""all", "last" or numbers"#, "first"]);
    fails(
        r#"visualize::maps(model, image, 0, 0, #{ heads: "median" });"#,
        &["heads: expected mean, max or none, found \"median\""],
    );
    fails("visualize::maps(model, image, 0, 0, #{ top_p: 0.0 });", &["top_p: expected a number above 0 and at most 1"]);
    fails(r#"visualize::image_numbers("first 0", 6);"#, &[r#"expected "first" and a positive number"#]);
    fails(r#"visualize::image_numbers("", 6);"#, &["images: expected at least one of the 6 images"]);
    fails(r#"visualize::image_numbers("2,6", 6);"#, &["expected images 0 to 5, found 6"]);
}

#[test]
fn random_patches_are_different_ones_given_by_the_seed() {
    let said = run(r#"import "std/visualize" as visualize;
        let before = rand([1]).item();
        seed(0);
        for s in [5, 5, 6] { print(visualize::patches("random 16", [4, 4], s).map(|p| p[0] * 4 + p[1])); }
        print(rand([1]).item() == before);"#);
    let lines: Vec<&str> = said.succeeds().stdout.lines().collect();
    assert_eq!(lines[0], lines[1]);
    assert_ne!(lines[0], lines[2]);
    let mut all: Vec<i64> = serde_json::from_str(lines[0]).unwrap();
    all.sort();
    assert_eq!(all, (0..16).collect::<Vec<_>>(), "each patch once");
    assert_eq!(lines[3], "true", "the run's generator goes on as if nothing had been drawn");
}

/// The recipe on the small folder of images.
fn recipe(folder: &Folder, model: &str, data: &str, sets: &[&str]) -> Said {
    let recipe = repository("recipes/visualize.rhai").display().to_string();
    let (model, data) = (format!("model={model}"), format!("data={data}"));
    let mut args = vec!["run", &recipe, "--device", "cpu", "--threads", "1", "--out", "out"];
    for set in [model.as_str(), data.as_str()].iter().chain(sets) {
        args.extend(["--set", set]);
    }
    folder.nepa(&args)
}

fn pictures() -> String {
    repository("tests/fixtures/data/folder").display().to_string()
}

#[test]
fn the_recipe_draws_a_picture_an_image_and_keeps_the_numbers() {
    let folder = Folder::new();
    let sets = ["images=0,3", "patches=1,2; 3,3", "size=128", "split=validation"];
    recipe(&folder, &golden(MODEL), &pictures(), &sets).succeeds().prints(&["image-0.png", "image-3.png", "16 maps"]);
    let numbers = folder.read("out/maps.safetensors");
    let file = SafeTensors::deserialize(&numbers).unwrap();
    assert_eq!(file.tensor("image-3.attention.1-2.layer-2.mean").unwrap().shape(), [4, 4]);
    assert!((floats(&numbers, "image-0.prediction.3-3").iter().sum::<f64>() - 1.0).abs() < 1e-5);

    // For each of two patches a row with the image and four maps.
    let picture = image::open(folder.path("out/image-0.png")).unwrap().to_rgb8();
    let panel = (128 + 6 + 11 + 62, 128 + 20 + 2 + 16);
    assert_eq!(picture.dimensions(), (2 * 16 + 5 * panel.0, 16 + 3 * 24 + 2 * panel.1 + 8));
    // The frame of the queried patch, in the first panel: its row 1 and column 2 of four.
    let (left, top) = (16, 16 + 3 * 24 + 22);
    assert_eq!(picture.get_pixel(left + 2 * 32, top + 32 + 16).0, [230, 30, 40]);
    // The colour bar of the first map: from yellow down to violet.
    let bar = |y: u32| picture.get_pixel(left + panel.0 + 128 + 6 + 5, top + y).0;
    assert!(bar(0)[0] > 200 && bar(0)[1] > 200 && bar(0)[2] < 100, "{:?}", bar(0));
    assert!(bar(127)[2] > bar(127)[1] && bar(127)[1] < 40, "{:?}", bar(127));
}

#[test]
fn the_recipe_takes_classifiers_that_are_not_causal_and_grey_images() {
    let folder = Folder::new();
    let model = golden("gelu-affine.classify-bidirectional-pool");
    recipe(&folder, &model, &pictures(), &["images=1", "heads=none", "layers=last", "size=64"]).succeeds();
    let numbers = folder.read("out/maps.safetensors");
    assert_eq!(SafeTensors::deserialize(&numbers).unwrap().len(), 5, "four heads and the prediction");

    // One channel, patches of another size.
    let folder = Folder::new();
    let grey = golden("reference-qknormbias");
    let sets = ["split=test", "images=first 2", "patches=random 2", "average=true", "size=64", "top_p=0.3"];
    recipe(&folder, &grey, &fashion(), &sets).succeeds();
    assert_eq!(folder.names("out").iter().filter(|n| n.ends_with(".png")).count(), 2);
}

#[test]
fn the_recipe_says_what_is_wrong_with_what_it_is_given() {
    let wrong = |sets: &[&str], pieces: &[&str]| {
        recipe(&Folder::new(), &golden(MODEL), &pictures(), sets).fails(1).says(pieces);
    };
    wrong(&["patches=9,0"], &["row 9, column 0 is outside the 4 x 4 patches"]);
    wrong(&["layers=7"], &["found 7"]);
    wrong(&["heads=sum"], &["expected mean, max or none"]);
    wrong(&["images=x"], &[r#"expected numbers such as "0,7,12""#]);
    wrong(&["alpha=2.0"], &["alpha: expected 0 to 1, found 2"]);
}

#[test]
fn a_panel_that_cannot_be_drawn_is_refused_and_nothing_written() {
    let folder = Folder::new();
    let draw = |panel: &str, pieces: &[&str]| {
        let script = format!(r#"plot::overlays("x.png", rand([3, 8, 8]), [{panel}], #{{}});"#);
        folder.run(&script).fails(1).says(pieces);
        assert!(!folder.path("x.png").exists());
    };
    draw("#{ map: rand([2]) }", &["expected a map [rows, columns]"]);
    draw("#{ map: rand([2, 2]), frames: [[2, 0, \"a\"]] }", &["row 2, column 0 is outside the 2 x 2 patches"]);
    draw("#{ map: rand([2, 2]) / 0.0 }", &["not finite"]);
    draw("#{ mapp: rand([2, 2]) }", &["unknown key `mapp`", "did you mean"]);
    draw("#{ map: 3 }", &["expected a tensor [rows, columns] as map"]);
    draw("#{ map: rand([2, 2]), gamma: 0 }", &["gamma must be above 0"]);
    draw("#{ frames: [[0, 0, \"a\"]] }", &["frames need a map, or `grid`"]);
    draw("", &["no panels"]);
    folder.run(r#"plot::overlays("x.svg", rand([3, 8, 8]), [#{}], #{});"#).fails(1).says(&["PNG files"]);
    folder
        .run(r#"plot::overlays("x.png", rand([8, 8]), [#{}], #{});"#)
        .fails(1)
        .says(&["expected an image [1 or 3, H, W]"]);
}
