"""The configuration of a model: the config.json of its folder, read as strictly as nepa reads it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nepa.errors import NepaError, did_you_mean
from nepa.json_file import read_object

# Keys that Hugging Face writes into any configuration, and that say nothing about the network.
GENERIC = {
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "chunk_size_feed_forward",
    "dtype",
    "finetuning_task",
    "id2label",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
# Keys that must be 0: NEPA has no such parts.
ABSENT = {"attention_probs_dropout_prob", "hidden_dropout_prob", "num_prompt_token"}
# Keys that matter in training alone.
TRAINING = {
    "drop_path_prob",
    "initializer_range",
    "pos_embed_images_per_draw",
    "pos_embed_jitter",
    "pos_embed_rescale",
    "pos_embed_shift",
    "use_intermediate_loss",
}
# No model has more of them.
MOST_LAYERS = 1 << 16


@dataclass(frozen=True)
class Config:
    """A ViT-NEPA, with the keys of config.json. An intermediate_size of None means 4 × hidden_size; a layerscale_value
    or rope_theta of None, that there is none. `class_names` has a name for each label, or is empty."""

    image_size: int
    patch_size: int
    num_channels: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int | None
    hidden_act: str
    use_gated_mlp: bool
    qkv_bias: bool
    qk_norm: bool
    qk_norm_affine: bool
    qk_norm_bias: bool
    layerscale_value: float | None
    layer_norm_eps: float
    rope_theta: float | None
    is_causal: bool
    add_pooling_layer: bool
    num_labels: int = 0
    class_names: tuple[str, ...] = ()

    @property
    def head_size(self) -> int:
        """Width d of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def patches(self) -> int:
        """Number T of an image's patches."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def mlp_size(self) -> int:
        """Width of the mlp."""
        return 4 * self.hidden_size if self.intermediate_size is None else self.intermediate_size

    def with_labels(self, file: Path | None, labels: int) -> Config:
        """The same for a head of so many labels, as the weights in `file` have them."""
        if file and labels and len(self.class_names) not in [0, labels]:
            counts = f"id2label names {len(self.class_names)} classes, but classifier.weight has {labels} rows"
            raise NepaError(f"{file.parent}: {counts}", "the configuration and the weights belong to different models")
        made_up = self.class_names == tuple(f"LABEL_{i}" for i in range(labels))
        names = () if labels == 0 or made_up else self.class_names
        return dataclasses.replace(self, num_labels=labels, class_names=names)


def read_config(path: Path) -> Config:
    """Reads and checks a config.json."""
    keys = read_object(path, "a model folder has a config.json beside its weights")
    _check_kind(path, keys)
    fields = {field.name: field for field in dataclasses.fields(Config) if field.name != "class_names"}
    for name, value in keys.items():
        if name in ABSENT and value != 0:
            raise NepaError(f"{path}: `{name}` is {value}, but only 0 is supported", "NEPA has no such part")
        if name not in {*fields, *GENERIC, *ABSENT, *TRAINING}:
            near = did_you_mean(name, fields)
            raise NepaError(f"{path}: unknown key `{name}`{near}", f"the keys are: {', '.join(fields)}")
    missing = [name for name in fields if name not in keys and name != "num_labels"]
    if missing:
        hint = "Hugging Face's save_pretrained writes every key; a guess could change the network"
        raise NepaError(f"{path}: missing key {', '.join(f'`{name}`' for name in missing)}", hint)
    for name, field in fields.items():
        _check_type(path, name, str(field.type), keys.get(name, 0))
    names = keys.get("id2label") or {}
    config = Config(**{name: keys[name] for name in fields if name in keys}, class_names=_class_names(path, names))
    _check_sizes(path, config)
    return config


def _check_kind(path: Path, keys: dict[str, Any]) -> None:
    kind = keys.get("model_type", "vit_nepa")
    if kind == "nepa_script":
        hint = "use it in a recipe: checkpoint::load"
        raise NepaError(f"{path}: the model is built by a script ({keys.get('script')}), which Python cannot run", hint)
    if kind == "nepa_parts":
        parts = f"the model has parts of its own ({keys.get('parts')}), which only its recipe can make"
        raise NepaError(f"{path}: {parts}", "use it in that recipe")
    if kind != "vit_nepa":
        raise NepaError(f'{path}: model_type is {kind!r}, expected "vit_nepa"', "only NEPA models can be loaded")


def _check_type(path: Path, name: str, expected: str, value: Any) -> None:
    """That a value is of the type that a field of `Config` is declared with."""
    types = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "None": (type(None),)}
    accepted = tuple(kind for word in expected.split(" | ") for kind in types[word])
    # In Python, a bool is an int.
    if not isinstance(value, accepted) or isinstance(value, bool) and bool not in accepted:
        raise NepaError(f"{path}: {name} is {json.dumps(value)}, expected {expected}", "correct it")


def _class_names(path: Path, names: Any) -> tuple[str, ...]:
    try:
        return tuple(str(names[str(i)]) for i in range(len(names)))
    except (KeyError, TypeError):
        raise NepaError(f'{path}: id2label is not {{"0": NAME, "1": NAME, …}}', "correct it, or remove it") from None


def _check_sizes(path: Path, config: Config) -> None:
    """What the types of single values cannot say."""
    sizes = ["image_size", "patch_size", "num_channels", "hidden_size", "num_attention_heads"]
    positive = {name: getattr(config, name) for name in sizes} | {"intermediate_size": config.mlp_size}
    faults = [f"{name} must be positive, found {value}" for name, value in positive.items() if value <= 0]
    if not 0 <= config.num_hidden_layers <= MOST_LAYERS:
        faults.append(f"num_hidden_layers must be 0 to {MOST_LAYERS}, found {config.num_hidden_layers}")
    if config.hidden_act not in ["gelu", "silu"]:
        faults.append(f'hidden_act must be "gelu" or "silu", found "{config.hidden_act}"')
    if config.layer_norm_eps < 0:
        faults.append(f"layer_norm_eps must not be negative, found {config.layer_norm_eps}")
    if config.rope_theta is not None and config.rope_theta <= 0:
        faults.append(f"rope_theta must be positive, found {config.rope_theta}")
    if not faults and config.image_size % config.patch_size:
        faults.append(f"patch_size must divide image_size, found {config.patch_size} and {config.image_size}")
    if not faults and config.hidden_size % config.num_attention_heads:
        heads = f"{config.num_attention_heads} heads for {config.hidden_size}"
        faults.append(f"num_attention_heads must divide hidden_size, found {heads}")
    if not faults and config.rope_theta is not None and config.head_size % 4:
        faults.append(f"rotary embedding needs a head width that is a multiple of 4, found {config.head_size}")
    if faults:
        raise NepaError(f"{path}: {faults[0]}", "correct it, or save the model again")
