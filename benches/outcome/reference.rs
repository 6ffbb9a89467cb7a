//! The reference's own scripts, with the settings that ours gets.

use nepa::error::{Context as _, Result};
use nepa::nn::VitNepaConfig;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What both sides train with.
pub struct Training<'a> {
    /// Holds train/ and validation/.
    pub pictures: &'a Path,
    pub epochs: u32,
    /// Images in a step.
    pub batch: u32,
    /// Peak learning rate.
    pub lr: f64,
    pub seed: u64,
}

/// A checkout of the reference, and the configuration of a model as it reads it.
pub struct Reference {
    checkout: PathBuf,
    python: PathBuf,
    /// Holds config.json and preprocessor_config.json.
    config: PathBuf,
    /// Where `datasets` keeps what it has read.
    cache: PathBuf,
}

impl Reference {
    /// Writes the model's configuration into `out`: that of the checkout's base model, with another size.
    pub fn new(checkout: &Path, python: &Path, out: &Path, model: &VitNepaConfig) -> Result<Self> {
        let base = checkout.join("configs/pretrain/nepa-base-patch14-224");
        let config = out.join("config");
        fs::create_dir_all(&config)?;
        let write = |name: &str, changes: Value| -> Result<()> {
            let path = base.join(name);
            let text =
                fs::read_to_string(&path).with_context(|| format!("{}: is --reference a checkout?", path.display()))?;
            let mut values: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            for (key, value) in changes.as_object().into_iter().flatten() {
                values[key] = value.clone();
            }
            Ok(fs::write(config.join(name), values.to_string())?)
        };
        write(
            "config.json",
            json!({
                "image_size": model.image_size, "patch_size": model.patch_size, "num_channels": model.num_channels,
                "hidden_size": model.hidden_size, "intermediate_size": model.intermediate_size,
                "num_hidden_layers": model.num_hidden_layers, "num_attention_heads": model.num_attention_heads,
                "layerscale_value": model.layerscale_value,
            }),
        )?;
        let size = json!({"height": model.image_size, "width": model.image_size});
        write("preprocessor_config.json", json!({ "size": size }))?;
        let checkout = checkout.canonicalize().with_context(|| checkout.display().to_string())?;
        Ok(Self { checkout, python: python.to_path_buf(), config, cache: out.join("cache") })
    }

    /// The folder of the configuration.
    pub fn config(&self) -> String {
        self.config.display().to_string()
    }

    /// Makes a classifier of a pretrained model, its head at zero.
    pub fn classifier(&self, pretrained: &Path, classes: usize, out: &Path) -> Command {
        let mut command = self.script("init_nepa_cls_from_pretrain.py");
        command.arg("--pretrained_model_id").arg(pretrained).arg("--save_local").arg("--local_dir").arg(out);
        command.args(["--num_labels", &classes.to_string()]);
        command
    }

    pub fn pretrain(&self, training: &Training, out: &Path) -> Command {
        let mut command = self.training("run_nepa.py", training, out);
        command.arg("--config_name").arg(&self.config).arg("--image_processor_name").arg(&self.config);
        command.args(["--warmup_ratio", "0.05", "--adam_beta2", "0.95"]);
        command
    }

    pub fn finetune(&self, start: &Path, training: &Training, out: &Path) -> Command {
        let mut command = self.training("run_image_classification.py", training, out);
        command.arg("--model_name_or_path").arg(start);
        command.args(["--freeze_embed", "True", "--drop_path", "0.1", "--llrd", "0.65", "--head_lr", "1e-3"]);
        command.args(["--lr_scheduler_kwargs", r#"{"custom_scheduler_type": "llrd_cosine_warmup"}"#]);
        command.args(["--warmup_ratio", "0.2", "--adam_beta2", "0.999", "--ema_decay", "0.99"]);
        command
    }

    /// What both tasks have in common, as in the checkout's scripts, but on the CPU in float32.
    fn training(&self, script: &str, training: &Training, out: &Path) -> Command {
        let mut command = self.script(script);
        command.arg("--train_dir").arg(training.pictures.join("train"));
        command.arg("--validation_dir").arg(training.pictures.join("validation"));
        command.arg("--cache_dir").arg(&self.cache).arg("--output_dir").arg(out);
        let (epochs, batch) = (training.epochs.to_string(), training.batch.to_string());
        let (lr, seed) = (training.lr.to_string(), training.seed.to_string());
        command.args(["--do_train", "--use_cpu", "True", "--remove_unused_columns", "False"]);
        command.args(["--num_train_epochs", &epochs, "--per_device_train_batch_size", &batch, "--learning_rate", &lr]);
        command.args(["--seed", &seed, "--lr_scheduler_type", "cosine", "--weight_decay", "0.05"]);
        command.args([
            "--optim",
            "adamw_torch",
            "--logging_steps",
            "50",
            "--save_strategy",
            "no",
            "--report_to",
            "none",
        ]);
        command.args(["--dataloader_drop_last", "True", "--dataloader_num_workers", "2"]);
        command.args(["--dataloader_persistent_workers", "True", "--dataloader_pin_memory", "False"]);
        command
    }

    fn script(&self, script: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/outcome/peer.py")).arg(&self.checkout).arg(script);
        command
    }
}
