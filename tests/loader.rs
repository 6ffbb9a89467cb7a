//! The loader on image files: the same stream for any number of workers, resuming, sharing among processes, broken
//! images.

mod common;

use common::*;
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
            transform::random_erasing(#{{ p: 0.5, mode: "pixel" }}), transform::mixup(#{{}}),
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

/// PyTorch's DistributedSampler(shuffle=False) on 28 items: `indices[rank::world]` of the list that is filled up with
/// its beginning.
#[test]
fn processes_share_the_images_as_distributed_sampler_does() {
    let said = with_images(
        r#"
        let of = |world, rank, batch, drop_last| {
            let loader = data::loader(images, [transform::resize([8, 8])], #{
                batch: batch, shuffle: false, drop_last: drop_last, world_size: world, rank: rank,
            });
            let found = [];
            for b in loader.epoch(0) { found.push(b.indices.to_array()); }
            found
        };
        for rank in 0..3 { print(of.call(3, rank, 12, false)); }
        for rank in 0..3 { print(of.call(3, rank, 12, true)); }
        // Each step's images together are those of one process.
        let one = data::loader(images, [transform::resize([8, 8])], #{ batch: 12, seed: 5 });
        let same = true;
        let step = 0;
        let shares = [];
        for rank in 0..4 {
            let loader = data::loader(images, [transform::resize([8, 8])], #{ batch: 12, seed: 5, world_size: 4, rank: rank });
            let mine = [];
            for b in loader.epoch(1) { mine.push(b.indices.to_array()); }
            shares.push(mine);
        }
        for b in one.epoch(1) {
            let together = [];
            for share in shares { together += share[step]; }
            let alone = b.indices.to_array();
            together.sort();
            alone.sort();
            same = same && together == alone;
            step += 1;
        }
        print(same);
        "#,
    );
    let share = |rank: usize, total: usize| -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..total).map(|i| i % 28).skip(rank).step_by(3).collect();
        all.chunks(4).map(<[usize]>::to_vec).collect()
    };
    let mut expected: Vec<_> = (0..3).map(|rank| json!(share(rank, 30))).collect();
    expected.extend((0..3).map(|rank| json!(share(rank, 24))));
    expected.push(json!(true));
    assert_eq!(said.values(), expected);
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
        (b"<html>404 Not Found</html>", &["no image", "<html>404"]),
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
    let orders = &said.says(&["1 of its images was broken", "bad_items.txt"]).numbers()[..5];
    for order in &orders[..4] {
        assert_eq!(order.len(), 6);
        assert!(!order.contains(&4.0), "the broken one is not used: {order:?}");
    }
    assert_eq!(orders[4], [1.0]);
    assert_eq!(list.lines().count(), 1, "{list}");
    for piece in ["\t4\t", "dog/1.jpg", "no image"] {
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
        "#,
    );
    assert_eq!(said.values(), vec![json!(true); 4]);
    with_images("for b in data::loader(images, [transform::resize([8, 8]), |b| 3], #{}).epoch(0) { print(b.len); }")
        .fails(1)
        .says(&["a function among the transforms", "found the integer 3"]);
}

#[test]
fn lists_of_transforms_that_make_no_sense_are_told() {
    for (list, pieces) in [
        ("[3]", &["expected a list of transforms, found the integer 3 at place 0"][..]),
        (
            "[transform::normalize(0.5, 0.5), transform::center_crop(8)]",
            &["center_crop([8, 8])", "before", "normalize"],
        ),
        (
            "[transform::resize([8, 8]), transform::random_erasing(#{}), transform::random_erasing(#{})]",
            &["random_erasing is listed twice"],
        ),
        ("[transform::resize([8, 8]), transform::normalize([0.5, 0.5], 0.5)]", &["mean", "one number or three"]),
        ("[transform::resize([8, 8]), transform::normalize(0.5, 0.0)]", &["std", "positive", "found 0"]),
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
    folder.run_with(script, &["--out", "out"]).succeeds().says(&["1 of its images was broken"]);
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
