//! Images and batches: what comes out depends on the seed, the epoch and the sample alone.

use crate::common::*;
use serde_json::{Value, json};
use std::io::Read as _;

/// A script with the test split at hand.
fn with_test(script: &str) -> Said {
    with_test_on(script, &[])
}

fn with_test_on(script: &str, args: &[&str]) -> Said {
    Folder::new().run_with(&format!("let data = data::idx(\"{}\", \"test\");\n{script}", fashion()), args)
}

/// The bytes of a shipped file after its header.
fn content(file: &str, header: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let raw = std::fs::File::open(format!("{}/{file}.gz", fashion())).unwrap();
    flate2::read::GzDecoder::new(raw).read_to_end(&mut bytes).unwrap();
    bytes.split_off(header)
}

#[test]
fn the_shipped_images_are_whole() {
    let said = run(&format!(
        r#"
        for split in ["train", "test"] {{
            let data = data::idx("{}", split);
            print([data.len, data.shape]);
            print(data.class_names);
        }}
        "#,
        fashion()
    ));
    let classes = json!([
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot"
    ]);
    let count = |file| content(file, 8).len();
    let (train, test) = (count("train-labels-idx1-ubyte"), count("t10k-labels-idx1-ubyte"));
    assert!(train > 10_000 && test >= 2000, "{train} {test}");
    let shape = [1, 28, 28];
    assert_eq!(said.values(), [json!([train, shape]), classes.clone(), json!([test, shape]), classes]);
}

#[test]
fn batches_hold_the_files_pixels_normalised_and_their_labels() {
    let said = with_test(
        r#"
        let loader = data::loader(data, [transform::normalize(0.25, 0.5)], #{ batch: 7, shuffle: false });
        let batch = loader.epoch(0).next();
        print(batch.images.shape);
        print(`"${batch.images.dtype} ${batch.labels.dtype} ${batch.indices.dtype}"`);
        print(batch.indices.to_array());
        print(batch.labels.to_array());
        print(batch.images[3].to_array());
        "#,
    );
    let values = said.values();
    assert_eq!(values[..3], [json!([7, 1, 28, 28]), json!("float32 int64 int64"), json!([0, 1, 2, 3, 4, 5, 6])]);
    assert_eq!(values[3], json!(content("t10k-labels-idx1-ubyte", 8)[..7]));
    let pixels = &content("t10k-images-idx3-ubyte", 16)[3 * 784..4 * 784];
    let expected: Vec<f64> = pixels.iter().map(|&p| (p as f64 / 255.0 - 0.25) / 0.5).collect();
    let found: Vec<f64> = values[4].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_close(&found, &expected, 1e-6);
}

#[test]
fn an_epoch_covers_every_image_once_in_an_order_of_its_own() {
    let said = with_test(
        r#"
        let data = data.take(500);
        let loader = data::loader(data, [], #{ batch: 64 });
        let order = |e| { let all = []; for b in loader.epoch(e) { all += b.indices.to_array(); } all };
        print(order.call(0));
        print(order.call(1));
        print(order.call(0));
        print(loader.steps_per_epoch);
        "#,
    );
    let orders = said.numbers();
    assert_eq!(orders[0], orders[2], "an epoch repeats");
    assert_ne!(orders[0], orders[1], "epochs differ");
    for order in &orders[..2] {
        let mut sorted = order.clone();
        sorted.sort_by(f64::total_cmp);
        assert_eq!(sorted, (0..500).map(f64::from).collect::<Vec<_>>());
        assert_ne!(*order, sorted, "shuffled");
    }
    assert_eq!(orders[3], [8.0]);
}

/// A digest of two augmented epochs.
const DIGEST: &str = r#"
    let loader = data::loader(data.take(300), [transform::random_crop(#{ padding: 2 }), transform::random_horizontal_flip()], #{ batch: 32 });
    for e in 0..2 {
        let weights = linspace(0.1, 1.7, 784);
        let sums = [];
        for b in loader.epoch(e) { sums += b.images.flatten(1, 3).matmul(weights).to_array(); sums += b.labels.to_array(); }
        print(sums);
    }
"#;

#[test]
fn batches_do_not_depend_on_the_number_of_threads() {
    let digest = |threads| with_test_on(DIGEST, &["--threads", threads]).numbers();
    let (one, two) = (digest("1"), digest("2"));
    for (a, b) in one.iter().zip(&two) {
        assert_close(a, b, 1e-3);
    }
    assert_ne!(one[0], one[1], "epochs differ");
}

#[test]
fn batches_depend_on_the_seed() {
    let digest = |seed| with_test_on(DIGEST, &["--seed", seed]).numbers();
    assert_eq!(digest("5"), digest("5"));
    assert_ne!(digest("5"), digest("6"));
}

#[test]
fn a_loaders_own_seed_wins_over_the_runs() {
    let script = "print(data::loader(data, [], #{ batch: 50, seed: 3 }).epoch(0).next().indices.to_array());";
    assert_eq!(with_test_on(script, &["--seed", "1"]).numbers(), with_test_on(script, &["--seed", "2"]).numbers());
}

#[test]
fn an_images_augmentation_does_not_depend_on_its_batch() {
    let said = with_test(
        r#"
        // A digest of every image, by its place in the source.
        let digests = |batch| {
            let loader = data::loader(data.take(100), [transform::random_crop(#{ padding: 3 }), transform::random_horizontal_flip()], #{ batch: batch, seed: 1 });
            let all = zeros([100]);
            for b in loader.epoch(4) {
                let sums = b.images.flatten(1, 3).matmul(linspace(0.1, 1.7, 784));
                for i in 0..b.len { all.slice(0, b.indices[i].item(), b.indices[i].item() + 1).copy_(sums[i]); }
            }
            all.to_array()
        };
        print(digests.call(7));
        print(digests.call(64));
        "#,
    );
    let digests = said.numbers();
    assert_close(&digests[0], &digests[1], 1e-3);
    assert!(digests[0].iter().all(|v| *v != 0.0));
}

#[test]
fn flips_mirror_about_half_of_the_images() {
    let said = with_test(
        r#"
        let plain = data::loader(data, [], #{ batch: 2000, shuffle: false }).epoch(0).next().images;
        let flipped = data::loader(data, [transform::random_horizontal_flip()], #{ batch: 2000, shuffle: false }).epoch(0).next().images;
        let same = (plain - flipped).abs().sum([1, 2, 3]) == 0;
        let mirrored = (plain.flip(3) - flipped).abs().sum([1, 2, 3]) == 0;
        print(same.to("float32").mean().item());
        print((same | mirrored).all());
        "#,
    );
    let values = said.values();
    let share = values[0].as_f64().unwrap();
    assert!((0.44..0.56).contains(&share), "{share}");
    assert_eq!(values[1], true);
}

#[test]
fn padded_crops_shift_and_fill_with_black() {
    // A white image of 4 x 4, so that what is left of it tells the shift.
    let folder = Folder::new();
    let words = |w: &[u32]| w.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
    folder.write("train-images-idx3-ubyte", [words(&[0x803, 1, 4, 4]), vec![255; 16]].concat());
    folder.write("train-labels-idx1-ubyte", [words(&[0x801, 1]), vec![0]].concat());
    let said = folder.run(
        r#"
        let loader = data::loader(data::idx(".", "train"), [transform::random_crop(#{ padding: 2 }), transform::normalize(0.5, 0.5)], #{});
        for e in 0..200 { print(loader.epoch(e).next().images.flatten(0, 3).to_array()); }
        "#,
    );
    let mut seen = std::collections::BTreeSet::new();
    for image in said.numbers() {
        assert!(image.iter().all(|v| v.abs() == 1.0), "white or black: {image:?}");
        let rows = (0..4).filter(|y| (0..4).any(|x| image[y * 4 + x] == 1.0)).count();
        let columns = (0..4).filter(|x| (0..4).any(|y| image[y * 4 + x] == 1.0)).count();
        assert_eq!(image.iter().filter(|v| **v == 1.0).count(), rows * columns, "a rectangle: {image:?}");
        seen.insert((rows, columns));
    }
    let all: Vec<_> = (2..=4).flat_map(|r| (2..=4).map(move |c| (r, c))).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all, "every shift of up to 2 occurs");
}

#[test]
fn a_short_last_batch_is_kept_or_dropped() {
    let said = with_test(
        r#"
        let sizes = |drop_last| {
            let loader = data::loader(data.take(100), [], #{ batch: 32, drop_last: drop_last });
            let sizes = [];
            for b in loader.epoch(0) { sizes.push(b.len); }
            sizes + [loader.steps_per_epoch]
        };
        print(sizes.call(false));
        print(sizes.call(true));
        "#,
    );
    assert_eq!(said.values(), [json!([32, 32, 32, 4, 4]), json!([32, 32, 32, 3])]);
}

#[test]
fn an_epoch_can_be_taken_by_hand_and_left_early() {
    let said = with_test(
        r#"
        let loader = data::loader(data, [], #{ batch: 16 });
        for e in 0..50 {
            let n = 0;
            for b in loader.epoch(e) { n += 1; if n == 2 { break; } }
        }
        let epoch = loader.epoch(0);
        let before = epoch.left;
        epoch.next();
        print([before, epoch.left]);
        let n = 1;
        while epoch.next() != () { n += 1; }
        print([n, epoch.left]);
        print(epoch.waited >= 0.0);
        "#,
    );
    assert_eq!(said.values(), [json!([125, 124]), json!([125, 0]), Value::from(true)]);
}

#[test]
fn per_class_takes_the_same_number_of_every_class() {
    let said = with_test(
        r#"
        let all = |source| data::loader(source, [], #{ batch: 2000, shuffle: false }).epoch(0).next();
        let labels = |source| all.call(source).labels;
        let few = labels.call(data.per_class(5, 1));
        print(few.one_hot(10).sum(0).to_array());
        print(all.call(data.per_class(5, 1)).images.equal(all.call(data.per_class(5, 1)).images));
        print(all.call(data.per_class(5, 1)).images.equal(all.call(data.per_class(5, 2)).images));
        "#,
    );
    assert_eq!(said.values(), [json!(vec![5; 10]), true.into(), false.into()]);
}

#[test]
fn split_parts_are_disjoint_and_whole() {
    let said = with_test(
        r#"
        let parts = data.split(0.3, 7);
        print([parts[0].len, parts[1].len]);
        let sums = |s| data::loader(s, [], #{ batch: 2000, shuffle: false }).epoch(0).next().images.sum([1, 2, 3]).to_array();
        let joined = sums.call(parts[0]) + sums.call(parts[1]);
        joined.sort();
        let whole = sums.call(data);
        whole.sort();
        print(joined == whole);
        print(sums.call(data.split(0.3, 7)[0]) == sums.call(parts[0]));
        print(sums.call(data.split(0.3, 8)[0]) == sums.call(parts[0]));
        "#,
    );
    assert_eq!(said.values(), [json!([600, 1400]), true.into(), true.into(), false.into()]);
}

#[test]
fn take_gives_the_first_images_in_order() {
    let said = with_test(
        "print(data::loader(data.take(9), [], #{ batch: 9, shuffle: false }).epoch(0).next().labels.to_array());",
    );
    assert_eq!(said.values(), [json!(content("t10k-labels-idx1-ubyte", 8)[..9])]);
}

#[test]
fn four_layouts_give_the_same_images_labels_and_names() {
    let (folder, disk) = (golden_data("folder"), golden_data("hf-disk"));
    let (parquet, tars) = (golden_data("parquet"), golden_data("webdataset"));
    let said = run(&format!(
        r#"
        let sources = [
            data::image_folder("{folder}/train"), data::hf_disk("{disk}", "train"),
            data::parquet("{parquet}/train-*.parquet"), data::webdataset("{tars}/train-{{0000..0001}}.tar"),
        ];
        print(data::splits("{folder}"));
        for s in sources {{ print([s.len, s.class_names.len(), s.class_counts]); }}
        // Base name -> label and a digest of the pixels.
        let content = |s| {{
            let all = #{{}};
            for i in 0..s.len {{
                let name = s.name(i).split("/")[-1].split(".")[0];
                let pixels = s.image(i).tensor().to("float32");
                all[name] = [s.label(i), pixels.shape, pixels.flatten(0, 2).std(0).item()];
            }}
            all
        }};
        let first = content.call(sources[0]);
        print(first.len());
        for s in sources {{ print(content.call(s) == first); }}
        print(sources[1].split);
        "#
    ));
    let values = said.stdout.lines().map(str::to_string).collect::<Vec<_>>();
    assert_eq!(values[0], "[\"train\", \"validation\"]", "{said}");
    for line in &values[1..5] {
        assert_eq!(line, "[28, 4, [7, 7, 7, 7]]", "{said}");
    }
    assert_eq!(values[5..], ["28", "true", "true", "true", "true", "train"], "{said}");
}

#[test]
fn parts_of_sources_are_chosen_by_place_or_by_a_function() {
    let folder = golden_data("folder");
    let said = run(&format!(
        r#"
        let s = data::open("{folder}", "train");
        let names = |s| {{ let all = []; for i in 0..s.len {{ all.push(s.name(i)); }} all }};
        print(names.call(s.subset([3, 3, 0])) == [s.name(3), s.name(3), s.name(0)]);
        let fish = s.filter(|item| item.label == 1 && item.name.contains("000") && item.index != 8);
        print(fish.len == 6 && fish.class_counts == [0, 6, 0, 0]);
        let both = data::concat([fish, s.take(2)]);
        print([both.len, both.label(0), both.label(6), both.class_names == s.class_names]);
        print(both.image(6).tensor().equal(s.image(0).tensor()));
        "#
    ));
    assert_eq!(said.values(), [json!(true), json!(true), json!([8, 1, 0, true]), json!(true)]);
    for (call, pieces) in [
        ("s.subset([28])", &["no item 28", "28 items"][..]),
        ("s.filter(|item| 3)", &["filter", "true or false", "integer 3"]),
        ("s.filter(|item| false)", &["filter: none of the 28 items is left"]),
        ("s.label(-1)", &["no item -1"]),
        ("data::concat([])", &["concat", "at least one"]),
        ("data::concat([s, 3])", &["concat", "integer 3"]),
    ] {
        run(&format!("let s = data::open(\"{folder}\", \"train\");\n{call};")).fails(1).says(pieces);
    }
    run(&format!("data::open(\"{folder}\");")).fails(1).says(&["train", "validation"]);
}

#[test]
fn synthetic_images_depend_on_the_seed_alone() {
    let said = run(r#"
        let of = |seed| data::synthetic(#{ len: 10, classes: 3, size: 16, seed: seed });
        print([of.call(1).len, of.call(1).shape, of.call(1).class_names.len()]);
        print(of.call(1).image(4).tensor().equal(of.call(1).image(4).tensor()));
        print(of.call(1).image(4).tensor().equal(of.call(2).image(4).tensor()));
        "#);
    assert_eq!(said.values(), [json!([10, [3, 16, 16], 3]), json!(true), json!(false)]);
}
