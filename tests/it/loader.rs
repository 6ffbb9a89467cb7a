//! The loader on image files: the same stream for any number of workers, resuming, sharing among processes, broken
//! images.

use crate::common::*;
use serde_json::json;

fn data(layout: &str) -> String {
    format!("{}/tests/fixtures/data/{layout}", env!("CARGO_MANIFEST_DIR"))
}

/// The golden folder's training images as `images`, and a digest of every batch.
fn with_images(script: &str) -> Said {
    Folder::new().run(&format!(
        r#"
        let images = data::open("{}", "train");
        let augment = [
            transform::random_resized_crop(32), transform::random_horizontal_flip(),
            transform::rand_augment("rand-m9-mstd0.5-inc1"), transform::normalize(0.5, 0.5),
            transform::random_erasing(#{{ p: 0.5, mode: "pixel" }}), transform::mixup(#{{ images_per_draw: 2 }}),
        ];
        let digest = |batch| [
            batch.indices.to_array(),
            batch.images.flatten(1, 3).matmul(linspace(0.1, 1.7, 3072)).to_array(),
            batch.targets.flatten(0, -1).to_array(),
        ];
        {script}
        "#,
        data("folder")
    ))
}

#[test]
fn the_stream_is_the_same_for_any_number_of_workers() {
    let said = with_images(
        r#"
        let all = |workers, prefetch| {
            let loader = data::loader(images, augment, #{ batch: 5, seed: 3, workers: workers, prefetch: prefetch });
            let found = [];
            for e in 0..3 { for b in loader.epoch(e) { found.push(digest.call(b)); } }
            found
        };
        let one = all.call(1, 1);
        print(one.len());
        print(one == all.call(2, 1) && one == all.call(16, 3) && one == all.call(3, 9));
        print(one[0] != one[6]);
        "#,
    );
    assert_eq!(said.values(), [json!(18), json!(true), json!(true)]);
}

#[test]
fn an_epoch_goes_on_after_any_image_exactly() {
    let said = with_images(
        r#"
        let loader = data::loader(images, augment, #{ batch: 4, seed: 1 });
        let whole = [];
        let epoch = loader.epoch(2);
        let done = [epoch.done];
        for b in epoch { whole.push(digest.call(b)); done.push(epoch.done); }
        print(done);
        let same = true;
        for skipped in 0..whole.len() {
            let rest = [];
            for b in loader.epoch(2, done[skipped]) { rest.push(digest.call(b)); }
            same = same && rest == whole.extract(skipped);
        }
        print(same);
        let indices = [];
        for b in loader.epoch(2, 13) { indices += b.indices.to_array(); }
        let all = [];
        for d in whole { all += d[0]; }
        print(indices == all.extract(13));
        print(loader.epoch(2, 28).left);
        "#,
    );
    assert_eq!(said.values(), [json!([0, 4, 8, 12, 16, 20, 24, 28]), json!(true), json!(true), json!(0)]);
}

/// `check(images, transforms, options, worlds, done)`: goes through an epoch as one process and as each of several, and
/// gives what is wrong with how they divide its batches.
const DIVIDED: &str = r#"
    let check = |images, transforms, options, worlds, done| {
        let mixed = transforms.some(|t| `${t}`.starts_with("mixup"));
        let wrong = [];
        let alone = data::loader(images, transforms, options + #{ rank: 0, world_size: 1 });
        for world in worlds {
            let whole = alone.epoch(3, done);
            let ranks = [];
            for rank in 0..world {
                ranks.push(data::loader(images, transforms, options + #{ rank: rank, world_size: world }).epoch(3, done));
            }
            loop {
                let all = whole.next();
                let parts = ranks.map(|epoch| epoch.next());
                if all == () {
                    if parts.some(|part| part != ()) { wrong.push("more batches than alone"); }
                    break;
                }
                if all.samples != [[0, all.len]] || all.loss_weight != 1.0 { wrong.push(`alone: ${all.samples}, ${all.loss_weight}`); }
                let places = [];
                for part in parts {
                    let what = `${images.len} images, ${options}, ${world} processes, ${part.samples} of ${all.len}`;
                    if part.samples.reduce(|n, run| n + run[1], 0) != part.len { wrong.push(`${what}: ${part.len} images`); }
                    if part.loss_weight != 0.0 {
                        for run in part.samples { for i in run[0]..run[0] + run[1] { places.push(i); } }
                        if part.loss_weight != 1.0 * (world * part.len) / all.len { wrong.push(`${what}: weight ${part.loss_weight}`); }
                    } else if part.samples != [[0, 1]] {
                        wrong.push(`${what}: a stand-in`);
                    }
                    if part.loss_weight == 0.0 && mixed { continue; }              // its partner is elsewhere
                    let rows = |t| cat(part.samples.map(|run| t.slice(0, run[0], run[0] + run[1])), 0);
                    if !part.indices.equal(rows.call(all.indices)) { wrong.push(`${what}: indices`); }
                    if !part.labels.equal(rows.call(all.labels)) { wrong.push(`${what}: labels`); }
                    if !part.images.equal(rows.call(all.images)) { wrong.push(`${what}: images`); }
                    if !part.targets.equal(rows.call(all.targets)) { wrong.push(`${what}: targets`); }
                }
                places.sort();
                let every = [];
                for i in 0..all.len { every.push(i); }
                if places != every { wrong.push(`${options}, ${world} processes: the places ${places} of ${all.len}`); }
                for epoch in ranks {
                    if epoch.done != whole.done || epoch.left != whole.left { wrong.push(`done ${epoch.done}, left ${epoch.left}`); }
                }
            }
        }
        wrong
    };
"#;

#[test]
fn processes_divide_every_batch_and_give_what_one_process_gives() {
    let said = with_images(&format!(
        r#"{DIVIDED}
        // What a function among the transforms draws for each sample is its own too.
        let draws = |b| {{
            let before = rng_state();
            rng_state(before + #{{ seed: 9, drawn: 0 }});
            let images = b.images + rand_per_sample([b.len, 1, 4, 4]).repeat([1, 1, 8, 8]);
            rng_state(before);
            images
        }};
        let steps = augment.extract(0, 5) + [draws];
        for n in [28, 27, 26, 25] {{
            for done in [0, 5, 24, n] {{
                print(check.call(images.take(n), steps, #{{ batch: 12, seed: 2 }}, [2, 3, 4, 6, 12], done));
            }}
            print(check.call(images.take(n), steps, #{{ batch: 12, seed: 2, drop_last: true, workers: 3 }}, [2, 4], 3));
            print(check.call(images.take(n), steps, #{{ batch: 32, shuffle: false }}, [2, 4, 32], 0));
        }}
        "#
    ));
    let values = said.values();
    assert_eq!(values, vec![json!([]); 4 * 6]);
}

#[test]
fn partners_of_mixing_stay_on_one_process() {
    let drawn = [
        ("batch", "()"),
        ("elem", "()"),
        ("pair", "()"),
        ("batch", "4"),
        ("batch", "10"),
        ("pair", "6"),
        ("elem", "2"),
    ];
    for (mode, images) in drawn {
        let said = with_images(&format!(
            r#"{DIVIDED}
            let mixup = transform::mixup(#{{ mode: "{mode}", prob: 0.8, images_per_draw: {images} }});
            let steps = augment.extract(0, 5) + [mixup];
            for n in [28, 27, 26, 25, 17] {{
                for done in [0, 5] {{
                    print(check.call(images.take(n), steps, #{{ batch: 12, seed: 2 }}, [2, 3, 6], done));
                }}
                print(check.call(images.take(n), steps, #{{ batch: 16, seed: 2 }}, [2, 4, 8], 0));
                print(check.call(images.take(n), steps, #{{ batch: 16, seed: 2, drop_last: true }}, [2, 4], 1));
            }}
            "#
        ));
        assert_eq!(said.values(), vec![json!([]); 5 * 4], "{mode}, {images}");
    }
}

#[test]
fn an_epoch_goes_on_with_another_number_of_processes() {
    let said = with_images(
        r#"
        let plain = [transform::resize([8, 8])];
        let of = |rank, world, batch| data::loader(images, plain, #{ seed: 4, batch: batch, rank: rank, world_size: world });
        let all = [];
        for b in of.call(0, 1, 28).epoch(1) { all += b.indices.to_array(); }
        let seen = [];
        let done = 0;
        for stage in [[1, 6, 1], [3, 9, 1], [2, 4, 2], [4, 4, 9]] {
            let epochs = [];
            for rank in 0..stage[0] { epochs.push(of.call(rank, stage[0], stage[1]).epoch(1, done)); }
            for step in 0..stage[2] {
                for epoch in epochs {
                    let b = epoch.next();
                    if b != () && b.loss_weight > 0.0 { seen += b.indices.to_array(); }
                }
            }
            done = epochs[0].done;
            print(done);
        }
        print(seen == all);
        "#,
    );
    assert_eq!(said.values(), [json!(6), json!(15), json!(23), json!(28), json!(true)]);
}

#[test]
fn what_is_drawn_for_a_sample_is_the_same_on_any_process_and_in_any_micro_batch() {
    let said = with_images(
        r#"
        let drop = nn::drop_path(0.5);
        let draw = |n| {
            rng_state(rng_state() + #{ seed: 3, drawn: 0 });
            [rand_per_sample([n, 2, 3]), drop.forward(ones([n, 2])), rand([2]), rand_per_sample([n]),
                randn_per_sample([n, 2]),
                // Several rows for each sample.
                dropout(ones([n * 2, 8]), 0.5).reshape([n, 2, 8]),
                drop.forward(ones([n * 4, 3, 2])).reshape([n, 4, 3, 2])]
        };
        let of = |rank, world, steps| data::loader(images, steps, #{ batch: 16, seed: 4, rank: rank, world_size: world }).epoch(0);
        for mixed in [[], [transform::mixup(#{})]] {
            let steps = [transform::resize([8, 8])] + mixed;
            let wrong = [];
            let whole = of.call(0, 1, steps);
            for all in whole {
                let alone = draw.call(all.len);
                for world in [1, 2, 4] {
                    for rank in 0..world {
                        let epoch = of.call(rank, world, steps);
                        let batch = epoch.next();
                        while epoch.done < whole.done { batch = epoch.next(); }
                        let check = |part, drawn| {
                            let what = `${part.samples} of ${all.len}`;
                            for i in [0, 1, 3, 4, 5, 6] {
                                let rows = part.samples.map(|run| alone[i].slice(0, run[0], run[0] + run[1]));
                                if !drawn[i].equal(cat(rows, 0)) { wrong.push(`${what}: draw ${i}`); }
                            }
                            if !drawn[2].equal(alone[2]) { wrong.push(`${what}: what is not of one sample`); }
                        };
                        check.call(batch, draw.call(batch.len));
                        // Rows that belong to no sample draw something else in each part.
                        let other = [];
                        for micro_batch in batch.micro_batches(2) {
                            rng_state(rng_state() + #{ seed: 3, drawn: 0 });
                            other.push(randn_per_sample([17]));
                        }
                        if other.len() == 2 && other[0].equal(other[1]) { wrong.push("two parts draw the same"); }
                        for k in 1..=batch.len {
                            let weight = 0.0;
                            for micro_batch in batch.micro_batches(k) {
                                check.call(micro_batch, draw.call(micro_batch.len));
                                weight += micro_batch.loss_weight;
                            }
                            if (weight - batch.loss_weight).abs() > 1e-12 { wrong.push(`weight ${weight}`); }
                            check.call(batch, draw.call(batch.len));         // as before the micro-batches
                        }
                    }
                }
            }
            print(wrong);
        }
        "#,
    );
    assert_eq!(said.values(), [json!([]), json!([])]);
}

#[test]
fn micro_batches_begin_at_one_state_of_the_generator_and_divide_the_batch() {
    let said = with_images(
        r#"
        for batch in data::loader(images, [transform::resize([8, 8])], #{ batch: 10 }).epoch(0) {
            let drawn = [];
            let sizes = [];
            let indices = [];
            for micro_batch in batch.micro_batches(4) {
                drawn.push(rand([1]).item());
                sizes.push(micro_batch.len);
                indices += micro_batch.indices.to_array();
            }
            print(sizes);
            let first = drawn[0];
            print(drawn.all(|x| x == first) && rand([1]).item() != first);
            print(indices == batch.indices.to_array());
            let count = 0;
            for micro_batch in batch.micro_batches(99) { count += micro_batch.len; }
            print(count == batch.len);
        }
        "#,
    );
    let batch = |sizes| [sizes, json!(true), json!(true), json!(true)];
    let batches = [json!([3, 3, 2, 2]), json!([3, 3, 2, 2]), json!([2, 2, 2, 2])].map(batch);
    assert_eq!(said.values(), batches.concat());
    with_images(
        "for batch in data::loader(images, [transform::resize([8, 8])], #{}).epoch(0) { batch.micro_batches(0); }",
    )
    .fails(1)
    .says(&["micro_batches: expected a number of at least 1, found 0"]);
}

#[test]
fn the_generator_draws_for_the_samples_of_the_batch_under_way() {
    let said = with_images(
        r#"
        let draw = |n| { rng_state(#{ seed: 3, drawn: 0 }); rand_per_sample([n]).to_array() };
        let all = draw.call(26);
        // Whether what is drawn for n samples is what belongs to these positions.
        let from = |first, n| print(draw.call(n) == all.extract(first, n));
        let of = |options| data::loader(images, [transform::resize([8, 8])], #{ batch: 16, world_size: 2 } + options);
        let starts = [8, 6];
        let sizes = [8, 6];
        for (batch, i) in of.call(#{ rank: 1 }).epoch(0) {
            from.call(starts[i], sizes[i]);
            for inner in of.call(#{ batch: 26, rank: 0 }).epoch(0) { from.call(0, inner.len); }
            from.call(starts[i], sizes[i]);
        }
        from.call(0, 6);
        "#,
    );
    assert_eq!(said.values(), vec![json!(true); 9]);
}

#[test]
fn samples_and_processes_that_make_no_sense_are_told() {
    let resize = "transform::resize([8, 8])";
    let loader = |steps: &str, options: &str| format!("data::loader(images, [{resize}{steps}], #{{ {options} }})");
    let mixup = ", transform::mixup(#{})";
    for (line, pieces) in [
        (loader("", "batch: 10, world_size: 4"), &["batch 10 cannot be divided among 4 ranks", "8 or 12 can"][..]),
        (loader("", "batch: 3, world_size: 4"), &["batch 3", "4 can"]),
        (loader(mixup, "batch: 10, world_size: 2"), &["batch 10", "2 ranks in pairs", "mixup", "8 or 12 can"]),
        (loader(mixup, "batch: 6, world_size: 4"), &["batch 6", "4 ranks in pairs", "hint: 8 can"]),
        (loader("", "rank: 1"), &["rank must be less than world_size", "1 of 1"]),
        (loader("", "rank: -1"), &["rank", "-1"]),
        (loader("", "world_size: 0"), &["rank must be less than world_size", "0 of 0"]),
        (format!("{}.epoch(1, 29)", loader("", "")), &["epoch 1 has 28 images", "fewer than the 29 already done"]),
        ("rand_per_sample([])".into(), &["rand_per_sample", "number of samples", "found []"]),
        ("randn_per_sample([])".into(), &["randn_per_sample", "number of samples", "found []"]),
        ("rand_per_sample([-1])".into(), &["must not be negative"]),
    ] {
        with_images(&format!("{line};")).fails(1).says(pieces);
    }
    // Alone, whatever the number; of several, a multiple of twice their number.
    with_images(&format!("{}; {};", loader(mixup, "batch: 7"), loader(mixup, "batch: 12, world_size: 3"))).succeeds();
}

/// A folder of two classes with three images each, one of them broken.
fn broken(bad: &[u8]) -> Folder {
    let folder = Folder::new();
    let source = std::path::PathBuf::from(data("folder/train/n01440764"));
    let mut files: Vec<_> = std::fs::read_dir(source).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    for class in ["cat", "dog"] {
        for (i, file) in files.iter().take(3).enumerate() {
            folder.write(&format!("d/{class}/{i}.jpg"), std::fs::read(file).unwrap());
        }
    }
    folder.write("d/dog/1.jpg", bad);
    folder
}

const EPOCHS: &str = "let loader = data::loader(data::open(\"d\"), [transform::resize([8, 8])], #{ batch: 3, OPTIONS });\n\
                      for e in 0..4 { let all = []; for b in loader.epoch(e) { all += b.indices.to_array(); } print(all); }";

#[test]
fn a_broken_image_ends_the_run_and_is_named() {
    let whole = std::fs::read(data("folder/train/n01440764/n01440764_0000.JPEG")).unwrap();
    for (bad, pieces) in [
        (&b""[..], &["the file is empty"][..]),
        (b"<html>404 Not Found</html>", &["it is an HTML page, not an image"]),
        (&whole[..whole.len() * 6 / 10], &["truncated"]),
        (&[0xff, 0xd8, 0xff, 0xe0, 0, 4, 0, 0, 0xff, 0xd9], &["damaged JPEG"]),
    ] {
        for options in ["workers: 1", "workers: 3"] {
            let said = broken(bad).run(&EPOCHS.replace("OPTIONS", options));
            said.fails(1).says(&["recipe.rhai:2:46", "item 4", "dog/1.jpg"]).says(pieces);
        }
    }
}

#[test]
fn a_broken_image_is_replaced_counted_and_listed_where_asked_for() {
    let script = EPOCHS.replace("OPTIONS", "on_bad: \"skip\", seed: 2, workers: WORKERS");
    let script = format!("{script}\nprint(loader.bad_items.len());");
    let runs: Vec<_> = ["1", "4"]
        .map(|workers| {
            let folder = broken(b"no image");
            let said = folder.run_with(&script.replace("WORKERS", workers), &["--out", "out"]);
            let list = folder.text("out/bad_items.txt");
            (said, list)
        })
        .into();
    let (said, list) = &runs[0];
    let orders = &said.says(&["skipped 1 broken image", "bad_items.txt"]).numbers()[..5];
    for order in &orders[..4] {
        assert_eq!(order.len(), 6);
        assert!(!order.contains(&4.0), "the broken one is not used: {order:?}");
    }
    assert_eq!(orders[4], [1.0]);
    assert_eq!(list.lines().count(), 1, "{list}");
    for piece in ["\t4\t", "dog/1.jpg", "not an image of a known format"] {
        assert!(list.contains(piece), "{list}");
    }
    assert_eq!(orders, &runs[1].0.numbers()[..5], "whatever the number of workers");
}

#[test]
fn a_file_that_vanishes_is_an_error_and_no_hang() {
    let folder = broken(b"");
    std::fs::copy(data("folder/train/n01440764/n01440764_0000.JPEG"), folder.path("d/dog/1.jpg")).unwrap();
    folder.write(
        "recipe.rhai",
        "let loader = data::loader(data::open(\"d\"), [transform::resize([8, 8])], #{ batch: 3 });\n\
         print(\"listed\");\n\
         let e = 0;\n\
         loop { for b in loader.epoch(e) { print(b.len); } e += 1; }",
    );
    let running = folder.start(&["run", "recipe.rhai"], &[]);
    running.wait_for("listed");
    std::fs::remove_file(folder.path("d/dog/1.jpg")).unwrap();
    running.finish().fails(1).says(&["item 4", "dog/1.jpg", "No such file"]);
}

#[test]
fn images_of_different_sizes_need_a_transform_that_gives_one() {
    let said =
        with_images("for b in data::loader(images, [], #{ batch: 4, shuffle: false }).epoch(0) { print(b.len); }");
    said.fails(1).says(&["cannot read item", "are expected", "transform::center_crop"]);
}

#[test]
fn a_function_among_the_transforms_gets_the_batch() {
    let said = with_images(
        r#"
        let plain = [transform::resize([8, 8])];
        let of = |more| data::loader(images, plain + more, #{ batch: 4, shuffle: false }).epoch(0).next();
        let one = of.call([]);
        print(one.images.min().item() >= 0.0 && one.images.max().item() <= 1.0);
        print(of.call([|b| b.images * 2.0]).images.equal(one.images * 2.0));
        print(of.call([|b| { b.images = b.images + 1.0; b.targets = b.labels + 5; b }]).targets.equal(one.labels + 5));
        print(of.call([|b| { b.images = b.images + 1.0; b }, transform::normalize(0.5, 0.25)]).images.equal((one.images + 0.5) / 0.25));
        // After a function, statistics of any scale may be meant.
        let scaled = of.call([|b| b.images * 255.0, transform::normalize(127.5, 127.5)]).images;
        print((scaled - (one.images * 2.0 - 1.0)).abs().max().item() < 1e-5);
        // A model gets float32, whatever a function has computed in.
        print(of.call([|b| b.images.to("float64")]).images.equal(one.images));
        print(of.call([|b| { b.images = b.images.to("float16"); b }]).images.dtype == "float32");
        "#,
    );
    assert_eq!(said.values(), vec![json!(true); 7]);
    with_images(
        "let list = [transform::resize([8, 8]), |b| (b.images * 255.0).long()];\n\
         data::loader(images, list, #{ batch: 4 }).epoch(0).next();",
    )
    .fails(1)
    .says(&["a function among the transforms: expected images as float32", "found int64"]);
    with_images("for b in data::loader(images, [transform::resize([8, 8]), |b| 3], #{}).epoch(0) { print(b.len); }")
        .fails(1)
        .says(&["a function among the transforms", "found the integer 3"]);
}

#[test]
fn what_a_function_gives_is_never_written_to() {
    let said = with_images(
        r#"
        let erasing = transform::random_erasing(#{ p: 1.0, min_area: 0.2 });
        let of = |function| data::loader(images, [transform::resize([32, 32]), function, erasing], #{ batch: 4 }).epoch(0).next().images;
        let kept = ones([4, 3, 32, 32]);
        let erased = of.call(|b| kept);
        print(kept.equal(ones([4, 3, 32, 32])) && erased.min().item() == 0.0 && erased.max().item() == 1.0);
        // One number for all pixels, of which a part is erased.
        let erased = of.call(|b| ones([1, 1, 1, 1]).expand([4, 3, 32, 32]));
        print(erased.min().item() == 0.0 && erased.max().item() == 1.0);
        let leaf = ones([4, 3, 32, 32]).requires_grad(true);
        let erased = of.call(|b| leaf);
        erased.sum().backward();
        print(erased.min().item() == 0.0 && leaf.grad.equal(erased) && leaf.min().item() == 1.0);
        "#,
    );
    assert_eq!(said.values(), vec![json!(true); 3]);
}

#[test]
fn another_view_has_other_augmentations_of_the_same_images_in_the_same_order() {
    let said = with_images(&format!(
        r#"{DIVIDED}
        let all = |options, done| {{
            let found = [];
            let loader = data::loader(images, augment, #{{ batch: 4, seed: 3 }} + options);
            for b in loader.epoch(1, done) {{ found.push(digest.call(b)); }}
            found
        }};
        let one = all.call(#{{}}, 0);
        let other = all.call(#{{ view: 1, workers: 3 }}, 0);
        print(one == all.call(#{{ view: 0 }}, 0));
        print(one.map(|d| d[0]) == other.map(|d| d[0]));
        let same = 0;
        for (batch, i) in one {{ for (x, k) in batch[1] {{ if x == other[i][1][k] {{ same += 1; }} }} }}
        print(same);
        print(one.map(|d| d[2]) != other.map(|d| d[2]));               // how they are mixed, too
        print(other != all.call(#{{ view: 2 }}, 0));
        print(all.call(#{{ view: 1 }}, 12) == other.extract(3));
        print(check.call(images, augment.extract(0, 5), #{{ batch: 12, seed: 2, view: 1 }}, [2], 5));
        "#
    ));
    let values = [json!(true), json!(true), json!(0), json!(true), json!(true), json!(true), json!([])];
    assert_eq!(said.values(), values);
}

#[test]
fn images_too_small_or_too_thin_for_a_transform_are_not_skipped_as_broken() {
    let folder = Folder::new();
    for name in ["d/a/0.png", "d/b/1.png"] {
        std::fs::create_dir_all(folder.path(name).parent().unwrap()).unwrap();
        image::RgbImage::new(20000, 1).save(folder.path(name)).unwrap();
    }
    for (transform, pieces) in [
        (
            "transform::random_crop(40, #{ padding: 2 })",
            &["at least 40 x 40", "found 5 x 20004", "transform::resize"][..],
        ),
        ("transform::resized_crop(0, 0, 9, 9, 8, #{})", &["row 0 and column 0", "9 x 9", "image of 1 x 20000"]),
        ("transform::resize(256), transform::random_crop(8, #{})", &["would make 256 x 5120000", "image of 1 x 20000"]),
    ] {
        let said = folder.run(&format!(
            "for b in data::loader(data::open(\"d\"), [{transform}], #{{ batch: 2, on_bad: \"skip\" }}).epoch(0) {{ }}"
        ));
        said.fails(1).says(&["cannot read item"]).says(pieces);
        assert!(!said.stderr.contains("images in a row"), "{said}");
    }
}

#[test]
fn grey_files_come_with_one_channel_where_asked_for() {
    let folder = Folder::new();
    let grey = |i: u32| image::GrayImage::from_fn(6, 5, |x, y| image::Luma([(x * 40 + y * 9 + i) as u8]));
    for i in 0..4 {
        let path = folder.path(&format!("d/{}/{i}.png", ["a", "b"][i as usize % 2]));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        grey(i).save(path).unwrap();
    }
    let said = folder.run(
        "let loader = data::loader(data::open(\"d\"), [transform::grayscale()], #{ batch: 1, shuffle: false });\n\
         print(loader.shape);\n\
         for b in loader.epoch(0) { print((b.images * 255.0).round().flatten().to_array()); }",
    );
    let values = said.values();
    assert_eq!(values[0], json!([1, 5, 6]));
    // In the order of the classes.
    for (found, i) in values[1..].iter().zip([0, 2, 1, 3]) {
        let expected: Vec<f64> = grey(i).into_raw().into_iter().map(f64::from).collect();
        assert_eq!(*found, json!(expected));
    }
}

#[test]
fn lists_of_transforms_that_make_no_sense_are_told() {
    for (list, pieces) in [
        ("[3]", &["expected a list of transforms, found the integer 3 at index 0"][..]),
        (
            "[transform::normalize(0.5, 0.5), transform::center_crop(8)]",
            &["center_crop([8, 8])", "before", "normalize"],
        ),
        (
            "[transform::resize([8, 8]), transform::random_erasing(#{}), transform::random_erasing(#{})]",
            &["random_erasing is listed twice"],
        ),
        (
            "[transform::resize([8, 8]), transform::normalize([0.5, 0.5], 0.5)]",
            &["mean has 2 values, but the images have 3 channel(s)"],
        ),
        ("[transform::resize([8, 8]), transform::normalize(0.5, 0.0)]", &["std", "positive", "found 0"]),
        ("[transform::resize([8, 8]), transform::normalize(0.5, 1.0e-50)]", &["std", "positive", "found 1e-50"]),
        ("[transform::resize([8, 8]), transform::normalize(1.0e39, 0.5)]", &["mean", "finite number (of float32)"]),
        (
            "[transform::resize([8, 8]), transform::normalize(127.5, 127.5)]",
            &["expected the mean of values in [0, 1]", "found 127.5", "divide it by 255"],
        ),
        (
            "[transform::resize([8, 8]), transform::mixup(#{}), transform::normalize(0.0, 255.0)]",
            &["expected the std of values in [0, 1]", "found 255"],
        ),
        (
            "[transform::resize([8, 8]), transform::mixup(#{}), transform::mixup(#{})]",
            &[
                "expected the labels (int64)",
                "found float32 [",
                "list mixup once, and before functions that set targets",
            ],
        ),
        (
            "[transform::resize([8, 8]), |b| { b.targets = b.labels + 1; b }, transform::mixup(#{})]",
            &["expected the labels (int64)", "found int64 [28] that another transform has set"],
        ),
        ("[transform::rand_augment(\"rand-m9\", #{ policy: \"rand-m1\" })]", &["unknown option `policy`"]),
        ("[transform::random_crop(#{ size: [8, 8] })]", &["unknown option `size`"]),
        ("[transform::random_crop(0, #{})]", &["transform::random_crop", "1 to 16384", "0 x 0"]),
        ("[transform::rand_augment(\"rand-m9-x3\")]", &["x3"]),
        ("[transform::op(\"Rotat\", [3.0], #{})]", &["Rotat", "did you mean `Rotate`?"]),
        ("[transform::random_resized_crop(0)]", &["random_resized_crop", "1 to 16384", "0 x 0"]),
        ("[transform::random_resized_crop(8, #{ scale: [0.5, 2.0] })]", &["scale", "[0.5, 2]"]),
        ("[transform::resize(8, #{ interpolation: \"bilinaer\" })]", &["bilinaer", "did you mean `bilinear`?"]),
        ("[transform::mixup(#{ mixup_alpha: 0.0, cutmix_alpha: 0.0 })]", &["mixup_alpha or cutmix_alpha"]),
    ] {
        with_images(&format!("for b in data::loader(images, {list}, #{{}}).epoch(0) {{ print(b.len); }}"))
            .fails(1)
            .says(pieces);
    }
}

#[test]
fn skipping_does_not_hide_a_list_of_transforms_that_fits_no_image() {
    let said =
        with_images("for b in data::loader(images, [], #{ batch: 4, on_bad: \"skip\" }).epoch(0) { print(b.len); }");
    said.fails(1).says(&["are expected", "transform::center_crop"]);
}

#[test]
fn skipping_gets_over_a_broken_first_image_and_reports_an_epoch_that_was_left() {
    let folder = broken(b"");
    let whole = folder.read("d/dog/2.jpg");
    for name in ["d/cat/1.jpg", "d/cat/2.jpg", "d/dog/0.jpg", "d/dog/1.jpg"] {
        folder.write(name, &whole);
    }
    folder.write("d/cat/0.jpg", "no image");
    let script = "let l = data::loader(data::open(\"d\"), [], #{ batch: 1, shuffle: false, on_bad: \"skip\" });\n\
                  for b in l.epoch(0) { print(b.len); break; }";
    folder.run_with(script, &["--out", "out"]).succeeds().says(&["skipped 1 broken image"]);
    assert!(folder.text("out/bad_items.txt").contains("cat/0.jpg"));
}

#[test]
fn what_a_script_does_to_one_batch_does_not_reach_the_next() {
    let said = with_images(
        r#"
        let loader = data::loader(images, [transform::resize([8, 8])], #{ batch: 4, shuffle: false });
        for b in loader.epoch(0) {
            let x = b.images.requires_grad(true);
            (x * 2.0).sum().backward();
            print(x.grad.max().item());
        }
        let kept = [];
        for b in loader.epoch(0) { kept.push(b.images.slice(0, 0, 1)); }
        let same = true;
        let i = 0;
        for b in loader.epoch(0) { same = same && kept[i].equal(b.images.slice(0, 0, 1)); i += 1; }
        print(same);
        "#,
    );
    assert_eq!(said.values(), [vec![json!(2.0); 7], vec![json!(true)]].concat());
}

#[test]
fn a_function_that_gives_no_images_is_told() {
    for (function, pieces) in [
        ("|b| b.images.mean()", &["expected images [4, C, H, W]", "found []"][..]),
        ("|b| b.images.slice(0, 0, 2)", &["expected images [4, C, H, W]"]),
    ] {
        let list = format!("[transform::resize([8, 8]), {function}, transform::mixup(#{{}})]");
        let script = format!("for b in data::loader(images, {list}, #{{ batch: 4 }}).epoch(0) {{ print(b.len); }}");
        with_images(&script).fails(1).says(pieces);
    }
}

#[test]
fn an_epoch_that_goes_on_between_batches_keeps_them_whole() {
    let said = with_images(
        r#"
        let loader = data::loader(images, [transform::resize([8, 8])], #{ batch: 8, drop_last: true });
        let sizes = [];
        for b in loader.epoch(0, 5) { sizes.push(b.len); }
        print(sizes);
        "#,
    );
    assert_eq!(said.values(), [json!([8, 8])]);
}
