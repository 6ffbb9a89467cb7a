//! Evaluation of features while a model trains: what it finds, what it may cost, and that it leaves no trace.

use crate::common::*;

/// A model, and 300 synthetic images of 4 classes that stand out in any features.
const EASY: &str = r#"
    import "std/features" as features;
    let m = nn::vit_nepa(#{ image_size: 16, patch_size: 4, num_channels: 3, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2 });
    let images = data::synthetic(#{ len: 300, classes: 4, size: 16 });
"#;

fn easy(script: &str) -> Said {
    run(&format!("{EASY}{script}"))
}

#[test]
fn neighbours_and_a_probe_tell_classes_apart_that_stand_out() {
    let said = easy(
        r#"
        for block in [0, 1, 2, "last"] {
            let found = features::online(m, images, #{ block: block });
            print([found.knn_top1, found.probe_top1]);
        }
        let parts = images.split(0.7, 3);
        print([features::knn(m, parts[0], parts[1], #{}).top1, features::linear_probe(m, parts[0], parts[1], #{}).top1]);
        "#,
    );
    for top1 in said.numbers() {
        assert!(top1[0] > 95.0 && top1[1] > 95.0, "{top1:?}: {said}");
    }
}

#[test]
fn neighbours_vote_with_the_weight_of_their_cosine() {
    // The patch embedding copies pixels and each image is of one colour, so the colours are the features: against
    // (1, 0, 0), cosines 0.8, 1 and 0.8 of classes 0, 1 and 0. The two of class 0 win where cosines weigh little.
    let said = run(r#"
        import "std/features" as features;
        let m = nn::vit_nepa(#{ image_size: 2, patch_size: 1, num_channels: 3, hidden_size: 4, num_hidden_layers: 0, num_attention_heads: 1 },
            #{ patch_embeddings: nn::define(#{}, |m, x| cat([x, zeros([x.size(0), 1, 2, 2])], 1).flatten(2, 3).transpose(1, 2)) });
        let set = |batch, rows| { batch.images = tensor(rows).unsqueeze(2).unsqueeze(3).expand([rows.len(), 3, 2, 2]); };
        let three = data::synthetic(#{ len: 3, classes: 2, size: 2 });                  // labels 0, 1, 0
        let one = three.take(1);                                                        // label 0
        let place = |batch| {
            if batch.len == 3 { set.call(batch, [[0.8, 0.6, 0.0], [1.0, 0.0, 0.0], [0.8, 0.0, 0.6]]); }
            else { set.call(batch, [[1.0, 0.0, 0.0]]); }
            batch
        };
        for wanted in [[1, 1.0], [3, 1.0], [3, 0.07]] {
            print(features::knn(m, three, one, #{ block: 0, k: wanted[0], temperature: wanted[1], transforms: [place] }).top1);
        }
        "#);
    assert_eq!(said.numbers().concat(), [0.0, 100.0, 0.0]);
}

#[test]
fn an_evaluation_takes_at_most_so_many_images() {
    let said = easy(
        r#"
        let seen = [0];
        let counted = [|batch| { seen[0] += batch.len; batch }];
        for images_wanted in [60, 100] {
            for held_out in [(), data::synthetic(#{ len: 200, classes: 4, size: 16, seed: 1 })] {
                seen[0] = 0;
                features::online(m, images, #{ images: images_wanted, held_out: held_out, transforms: counted, batch: 32 });
                print(seen[0]);
            }
        }
        seen[0] = 0;
        let found = features::online(m, images.take(90), #{ transforms: counted, knn: false });
        print(seen[0]);
        print(found.keys());
        "#,
    );
    said.succeeds().prints(&["90\n90\n150\n150\n90\n[\"probe_top1\", \"seconds\", \"tested\"]"]);
}

#[test]
fn an_evaluation_leaves_no_trace() {
    let said = easy(
        r#"
        let moving = nn::vit_nepa(m.config + #{ drop_path_prob: 0.5, pos_embed_rescale: 2.0 });
        let parts = images.split(0.5, 1);
        let evaluations = [
            || features::online(moving, images, #{ transforms: [transform::random_horizontal_flip(), transform::normalize(0.5, 0.5)] }),
            || features::knn(moving, parts[0], parts[1], #{}),
            || features::linear_probe(moving, parts[0], parts[1], #{}),
        ];
        for training in [true, false] {
            moving.train(training);
            for evaluation in evaluations {
                let weights = moving.state_dict();
                let state = rng_state();
                evaluation.call();
                print(rng_state() == state);
                print(moving.training == training);
                let now = moving.named_parameters();
                let same = true;
                for name in now.keys() {
                    same = same && now[name].equal(weights[name]) && now[name].grad == () && now[name].requires_grad;
                }
                print(same);
            }
        }
        // The same weights are the same evaluation, whatever was drawn before.
        let first = features::online(moving, images, #{ images: 90 });
        randn([5]);
        let second = features::online(moving, images, #{ images: 90 });
        print(first.knn_top1 == second.knn_top1);
        "#,
    );
    assert_eq!(said.values(), [true; 19]);
}

#[test]
fn the_average_of_the_weights_can_be_evaluated() {
    let said = easy(
        r#"
        let ema = optim::ema(m, 0.5);
        ema.update();
        for p in m.named_parameters().values() { p.copy_(zeros(p.shape)); }
        print(features::online(m, images, #{ block: 0 }).knn_top1);
        print(ema.apply(|| features::online(m, images, #{ block: 0 }).knn_top1));
        "#,
    );
    let top1 = said.numbers().concat();
    assert!(top1[0] < 50.0 && top1[1] > 95.0, "{top1:?}");
}

#[test]
fn what_cannot_be_evaluated_is_told() {
    let folder = Folder::new();
    let mut png = Vec::new();
    image::RgbImage::new(16, 16).write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    folder.write("one/a/0.png", &png);
    folder.write("one/b/0.png", &png);
    folder.write("x.tar", tar(&["0.png", "1.png", "2.png"], &png));
    for (call, pieces) in [
        ("features::online(m, images.filter(|i| i.label == 2), #{});", &["at least 2 classes, found 1"][..]),
        (
            "features::knn(m, images, data::image_folder(\"one\"), #{});",
            &["features::knn: the classes differ: 4 in", "2 in"],
        ),
        ("features::online(m, images, #{ block: 3 });", &["0 to 2", "\"last\"", "found 3"]),
        ("features::online(m, images, #{ blok: 1 });", &["`blok`", "`block`"]),
        ("features::online(m, data::webdataset(\"x.tar\"), #{});", &["needs labelled images", "0 of the 2"]),
    ] {
        folder.run(&format!("{EASY}{call}")).fails(1).says(pieces);
    }
}

/// A tar archive of files with one content.
fn tar(names: &[&str], content: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for name in names {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = b'0';
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend(header);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}
