//! Every file of the newest checkpoint damaged in many places: it is never loaded in silence.

use crate::common::{Folder, Said, copy, files, outcome};
use crate::{Row, Soak};
use rand::Rng;
use std::fmt;
use std::path::{Path, PathBuf};

const RECIPE: &str = r#"
import "std/finetune" as finetune;
let images = data::synthetic(#{ len: 12, size: 8, classes: 2, seed: 1 });
let model = nn::vit_nepa(#{
    image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2,
    intermediate_size: 16, num_labels: 2, drop_path_prob: 0.2,
});
let stops = param("stops", false);
finetune::fit(model, images, #{
    epochs: 4, batch: 4, log_every: 1, save_every: 3, keep: 2,
    on_epoch: |model, ema, state| if stops && state.epoch == 2 { throw "stopped"; },
});
checkpoint::save(model, run::path("model"));
"#;
/// Places in each file.
const PLACES: usize = 200;

/// What is done to a file at an offset.
#[derive(Debug, Clone, Copy)]
enum Damage {
    FlipBit(u8),
    CutHere,
    /// So many bytes of it are added to its end.
    Extend(usize),
    /// So many bytes become zero; if they are, they become 255.
    Zero(usize),
}

struct Place {
    file: PathBuf,
    offset: usize,
    damage: Damage,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {:?} at {}", self.file.display(), self.damage, self.offset)
    }
}

impl Place {
    fn damaged(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self.damage {
            Damage::FlipBit(bit) => bytes[self.offset] ^= 1 << bit,
            Damage::CutHere => bytes.truncate(self.offset),
            Damage::Extend(number) => bytes.extend_from_within(..number),
            Damage::Zero(number) => {
                let block = &mut bytes[self.offset..self.offset + number];
                let value = if block.iter().all(|byte| *byte == 0) { 255 } else { 0 };
                block.fill(value);
            }
        }
        bytes
    }
}

fn run(folder: &Folder, more: &[&str]) -> Said {
    folder.write("recipe.rhai", RECIPE);
    folder.nepa(&[&["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--out", "o"], more].concat())
}

pub fn soak(soak: &Soak) -> Vec<Row> {
    let (stopped, whole) = (Folder::new(), Folder::new());
    run(&stopped, &["--set", "stops=true"]).fails(1).says(&["stopped"]);
    copy(&stopped.path("o"), &whole.path("o"));
    run(&whole, &["--set", "stops=false"]).succeeds().says(&["resumed from step 9"]);
    let expected = outcome(&whole.path("o"));

    let newest = "checkpoints/finetune/step-00000009";
    let mut rows = Vec::new();
    for file in files(&stopped.path(&format!("o/{newest}"))) {
        let name = file.strip_prefix(stopped.path(&format!("o/{newest}"))).unwrap().to_path_buf();
        let what = format!("damage: {}", name.display());
        if !soak.wants(&what) {
            continue;
        }
        rows.push(soak.try_all(&what, places(soak, &file, &name), |place| {
            let folder = Folder::new();
            copy(&stopped.path("o"), &folder.path("o"));
            let file = format!("o/{newest}/{}", place.file.display());
            folder.write(&file, place.damaged(folder.read(&file)));
            let said = run(&folder, &["--set", "stops=false"]);
            said.says(&[&file]);
            match said.code {
                Some(0) => {
                    said.says(&["using the checkpoint before it", "resumed from step 6"]);
                    expected.assert_same(&folder.path("o"));
                }
                _ => drop(said.fails(1)),
            }
        }));
    }
    rows
}

/// Places in a file, with what is done there, in turn.
fn places(soak: &Soak, file: &Path, name: &Path) -> Vec<Place> {
    let length = std::fs::metadata(file).unwrap().len() as usize;
    let place = |i: usize| {
        let mut random = soak.random(&name.display().to_string(), i);
        let offset = random.random_range(0..length);
        let damage = match i % 4 {
            0 => Damage::FlipBit(random.random_range(0..8)),
            1 => Damage::CutHere,
            2 => Damage::Extend(random.random_range(1..=length)),
            _ => Damage::Zero(random.random_range(1..=(length - offset).min(512))),
        };
        Place { file: name.to_path_buf(), offset, damage }
    };
    (0..soak.scaled(PLACES)).map(place).collect()
}
