//! The model card of a Hugging Face folder.

use super::Model;
use crate::nn::Module as _;
use serde_json::Value;
use std::fmt::Write as _;

/// README.md: what the model is, what it was trained on and how, and how to use it, as far as that is known.
pub fn card(model: &Model) -> String {
    let config = model.built.architecture();
    let classifies = config.num_labels > 0;
    let task = if classifies { "image-classification" } else { "image-feature-extraction" };
    let mut text = format!("---\npipeline_tag: {task}\ntags:\n- nepa\n- vision-transformer\n---\n\n");
    let mut line = |words: &str| {
        let _ = writeln!(text, "{words}");
    };
    line(&format!("# {}\n", model.built.describe()));
    line(&format!(
        "A Vision Transformer of {} parameters, {}. NEPA (Next-Embedding Predictive Autoregression, \
         [arXiv 2512.16922](https://arxiv.org/abs/2512.16922)) pretrains by predicting the next patch's embedding.\n",
        crate::nn::num_parameters(&model.built),
        if classifies { format!("a classifier of {} classes", config.num_labels) } else { "without a head".into() },
    ));
    line("## Training\n");
    line("| | |\n|---|---|");
    let weights = if model.weights == "ema" { "averaged (EMA)" } else { "as trained" };
    line(&format!("| weights | {weights} |"));
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // Cells of a table in Markdown, from values that may be anything.
    let cell = |value: &Value| crate::text::visible(&plain(value)).replace('|', "\\|").replace('\n', " ");
    let known = &model.provenance;
    for key in ["recipe", "seed", "step", "epoch", "top1", "ema_top1", "nepa_version", "saved_at"] {
        if let Some(value) = known.get(key).filter(|value| !value.is_null()) {
            line(&format!("| {key} | {} |", cell(value)));
        }
    }
    if known.is_empty() {
        line("| recipe | not known: the folder had no provenance.json |");
    }
    if let Some(Value::Object(params)) = known.get("params").filter(|params| params != &&Value::Null) {
        for (name, value) in params {
            line(&format!("| parameter `{name}` | {} |", cell(value)));
        }
    }
    let others = known.iter().filter(|(_, value)| value.is_number());
    let named = ["seed", "step", "epoch", "top1", "ema_top1", "parameters"];
    for (name, value) in others.filter(|(name, _)| !named.contains(&name.as_str())) {
        line(&format!("| {name} | {} |", cell(value)));
    }
    let normalization = model.built.normalization();
    let numbers = if normalization.is_unchanged { "as they are," } else { "divided by 255, then" };
    line(&format!(
        "\n## Images\n\n{0} x {0} pixels, {1} channels, {numbers} minus mean {2:?} and divided by {3:?}: \
         `preprocessor_config.json`.\n",
        config.image_size, config.num_channels, normalization.mean, normalization.std
    ));
    line("## Use\n");
    line("```python\nimport nepa\n\nmodel = nepa.load(\"this folder\")    # a torch.nn.Module\n```\n");
    line(
        "With nepa, in a recipe: `checkpoint::load(\"this folder\")`. The folder is also read by the authors' own code,",
    );
    line("<https://github.com/SihanXU/nepa>.\n");
    line(
        "`provenance.json` says where the weights come from. This card was written by `nepa export`; what it does not",
    );
    line("know, such as the licence and the terms of the training images, is for you to add.");
    text
}
