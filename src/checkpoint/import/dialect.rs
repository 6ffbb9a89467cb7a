//! What other projects call the parts of a Vision Transformer.

/// The names of a network's tensors, without what stands before all of them.
pub(super) struct Dialect {
    /// Whose names these are, for errors.
    pub of: &'static str,
    pub patches: &'static str,
    pub class_token: &'static str,
    /// Of several names, the one that is there.
    pub registers: &'static [&'static str],
    pub positions: &'static str,
    /// What comes before a block's number.
    pub blocks: &'static str,
    /// Before attention and before the mlp.
    pub norms: [&'static str; 2],
    /// Query, key and value as one layer, if that is known.
    pub joined: Option<&'static str>,
    /// Each by itself.
    pub query_key_value: [&'static str; 3],
    /// After attention.
    pub output: &'static str,
    /// LayerScale after attention and after the mlp: of several names, the one that is there.
    pub scales: [&'static [&'static str]; 2],
    /// Of several kinds of mlp, the first whose first layer is there.
    pub mlps: &'static [Mlp],
    pub norm: &'static str,
    /// Tensors that features do not need, by how their names begin, and what they are.
    pub unused: &'static [(&'static str, &'static str)],
}

/// An mlp by the names of its layers.
pub(super) enum Mlp {
    Plain {
        up: &'static str,
        down: &'static str,
    },
    Gated {
        gate: &'static str,
        up: &'static str,
        down: &'static str,
    },
    /// Gate and up as one layer, in this order; a plain one if this layer is no wider than the next one takes.
    Packed {
        both: &'static str,
        down: &'static str,
    },
}

impl Mlp {
    pub fn first(&self) -> &'static str {
        match self {
            Self::Plain { up: first, .. } | Self::Gated { gate: first, .. } | Self::Packed { both: first, .. } => first,
        }
    }

    pub fn down(&self) -> &'static str {
        match self {
            Self::Plain { down, .. } | Self::Gated { down, .. } | Self::Packed { down, .. } => down,
        }
    }
}

const MASK_TOKEN: (&str, &str) = ("embeddings.mask_token", "the mask token, for pretraining");
const HEAD: (&str, &str) = ("head.", "a classification head");

/// Attention of Hugging Face's ViT, which DINOv2 shares.
const VIT_ATTENTION: [&str; 3] = ["attention.attention.query", "attention.attention.key", "attention.attention.value"];

/// `ViTModel` and `ViTMAEModel` of transformers.
pub(super) const VIT: Dialect = Dialect {
    of: "transformers' ViT",
    patches: "embeddings.patch_embeddings.projection",
    class_token: "embeddings.cls_token",
    registers: &["embeddings.register_tokens"],
    positions: "embeddings.position_embeddings",
    blocks: "encoder.layer",
    norms: ["layernorm_before", "layernorm_after"],
    joined: None,
    query_key_value: VIT_ATTENTION,
    output: "attention.output.dense",
    scales: [&[], &[]],
    mlps: &[Mlp::Plain { up: "intermediate.dense", down: "output.dense" }],
    norm: "layernorm",
    unused: &[("pooler.", "the pooler, a layer of the head"), MASK_TOKEN],
};

/// `Dinov2Model` and `Dinov2WithRegistersModel` of transformers.
pub(super) const DINOV2: Dialect = Dialect {
    of: "transformers' DINOv2",
    norms: ["norm1", "norm2"],
    scales: [&["layer_scale1.lambda1"], &["layer_scale2.lambda1"]],
    mlps: &[
        Mlp::Packed { both: "mlp.weights_in", down: "mlp.weights_out" },
        Mlp::Plain { up: "mlp.fc1", down: "mlp.fc2" },
    ],
    unused: &[MASK_TOKEN],
    ..VIT
};

/// `DINOv3ViTModel` of transformers.
pub(super) const DINOV3: Dialect = Dialect {
    of: "transformers' DINOv3",
    patches: "embeddings.patch_embeddings",
    blocks: "layer",
    query_key_value: ["attention.q_proj", "attention.k_proj", "attention.v_proj"],
    output: "attention.o_proj",
    mlps: &[
        Mlp::Gated { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" },
        Mlp::Plain { up: "mlp.up_proj", down: "mlp.down_proj" },
    ],
    norm: "norm",
    ..DINOV2
};

/// timm's `VisionTransformer` and `Eva`, and what keeps to their names: MAE's and DINOv2's own files.
pub(super) const TIMM: Dialect = Dialect {
    of: "timm's ViT",
    patches: "patch_embed.proj",
    class_token: "cls_token",
    registers: &["reg_token", "register_tokens"],
    positions: "pos_embed",
    blocks: "blocks",
    norms: ["norm1", "norm2"],
    joined: Some("attn.qkv"),
    query_key_value: ["attn.q_proj", "attn.k_proj", "attn.v_proj"],
    output: "attn.proj",
    scales: [&["ls1.gamma", "gamma_1"], &["ls2.gamma", "gamma_2"]],
    mlps: &[
        Mlp::Gated { gate: "mlp.fc1_g", up: "mlp.fc1_x", down: "mlp.fc2" },
        Mlp::Packed { both: "mlp.w12", down: "mlp.w3" },
        Mlp::Packed { both: "mlp.fc1", down: "mlp.fc2" },
    ],
    norm: "norm",
    unused: &[
        HEAD,
        ("fc_norm.", "the norm of pooled features, a layer of the head"),
        ("mask_token", "the mask token, for pretraining"),
        ("decoder", "MAE's decoder"),
        ("rope.periods", "what rotary angles are computed from, as here"),
    ],
};

/// NEPA of stable-pretraining.
pub(super) const STABLE_PRETRAINING: Dialect = Dialect {
    of: "stable-pretraining's NEPA",
    scales: [&["ls1"], &["ls2"]],
    mlps: &[Mlp::Gated { gate: "mlp.w1", up: "mlp.w2", down: "mlp.w3" }, Mlp::Plain { up: "mlp.fc1", down: "mlp.fc2" }],
    unused: &[("callbacks_modules.", "a probe of training"), ("callbacks_metrics.", "a measure of training")],
    ..TIMM
};
