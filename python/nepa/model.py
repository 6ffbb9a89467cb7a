"""ViT-NEPA in PyTorch: the whole network, as plain as can be, and `load`, which fills it from a model folder.

It computes what nepa computes, within rounding, and its parameters have the names of the folder's tensors. It is meant
for notebooks and comparisons, and always computes as in evaluation: drop path and augmented positions are a matter of
nepa's own training.

Symbols in shapes: B images, C channels, S image side, T patches, N = T + 1 tokens with the class token in front, D
their width, H heads, d = D / H.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nepa.config import Config, read_config
from nepa.errors import NepaError, did_you_mean
from nepa.tensor_file import read_tensors
from nepa.weights import find_weights

Angles = tuple[Tensor, Tensor]
# A weight by whose name a model is found in a file.
PATCH_EMBEDDING = "vit_nepa.embeddings.patch_embeddings.projection.weight"
# The most tensors that an error lists.
SHOWN = 12
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "silu": F.silu}


class Output(NamedTuple):
    """Everything that a forward pass gives."""

    input_embedding: Tensor
    """z: class token and patch embeddings before the blocks [B, N, D]."""
    last_hidden_state: Tensor
    """h: the final norm's output [B, N, D]."""
    hidden_states: list[Tensor]
    """What the first block sees, and each block's output before the final norm."""
    attentions: list[Tensor]
    """Attention probabilities of each block [B, H, N, N], where asked for."""
    logits: Tensor | None
    """[B, num_labels], of a model with a head."""


def rotary_angles(config: Config, device: torch.device) -> Angles | None:
    """Cosines and sines [T, d] of the patches, float32: a rotary embedding of two dimensions. None where it is off."""
    if config.rope_theta is None:
        return None
    grid = config.image_size // config.patch_size
    centres = torch.arange(0.5, grid, device=device) / grid * 2 - 1
    rows, columns = centres.repeat_interleave(grid), centres.repeat(grid)
    # Rounding may make it one more.
    exponents = torch.arange(0, 1, 4 / config.head_size, device=device)[: config.head_size // 4]
    frequencies = 1 / config.rope_theta**exponents
    angles = 2 * torch.pi * torch.stack([rows, columns], 1)[:, :, None] * frequencies  # [T, 2, d/4]
    angles = angles.flatten(1).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Turns the patch tokens of queries or keys [B, H, N, d]; the class token stays. Computed in float32."""
    cos, sin = angles
    first, patches = x[:, :, :1], x[:, :, 1:]
    left, right = patches.chunk(2, -1)
    turned = patches * cos + torch.cat([-right, left], -1) * sin
    return torch.cat([first, turned.to(x.dtype)], 2)


def qk_norm(config: Config) -> nn.Module:
    """The norm of queries or keys over the width of a head."""
    if not config.qk_norm:
        return nn.Identity()
    affine, bias = config.qk_norm_affine, config.qk_norm_bias
    return nn.LayerNorm(config.head_size, config.layer_norm_eps, elementwise_affine=affine, bias=bias)


class Attention(nn.Module):
    """softmax(q kᵀ / √d) v by head; queries and keys are normed over the head, then rotated."""

    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.is_causal = config.num_attention_heads, config.is_causal
        self.tokens, self.head_size = config.patches + 1, config.head_size
        width = config.hidden_size
        self.query = nn.Linear(width, width, bias=config.qkv_bias)
        self.key = nn.Linear(width, width, bias=config.qkv_bias)
        self.value = nn.Linear(width, width, bias=config.qkv_bias)
        self.q_norm, self.k_norm = qk_norm(config), qk_norm(config)

    def by_head(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, H, N, d]."""
        # All sizes in numbers, here and below: ONNX cannot derive one where there are no images.
        return x.reshape(x.shape[0], self.tokens, self.heads, self.head_size).transpose(1, 2)

    def forward(self, x: Tensor, angles: Angles | None, attentions: list[Tensor] | None) -> Tensor:
        q, k, v = self.by_head(self.query(x)), self.by_head(self.key(x)), self.by_head(self.value(x))
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        if attentions is None:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        else:
            # The fused function never holds the probabilities.
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            if self.is_causal:
                later = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, float("-inf"))
            probabilities = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
            attentions.append(probabilities)
            mixed = probabilities @ v
        return mixed.transpose(1, 2).reshape(x.shape[0], self.tokens, self.heads * self.head_size)


class AttentionAndOutput(nn.Module):
    """Attention [B, N, D] -> [B, N, D], and a linear map of what it gives."""

    def __init__(self, config: Config):
        super().__init__()
        self.attention = Attention(config)
        self.output = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.hidden_size)})

    def forward(self, x: Tensor, angles: Angles | None, attentions: list[Tensor] | None) -> Tensor:
        return self.output["dense"](self.attention(x, angles, attentions))


class LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, config: Config):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.full([config.hidden_size], config.layerscale_value or 0.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.lambda1


class Block(nn.Module):
    """x += scale ⊙ attention(norm(x)), then x += scale ⊙ mlp(norm(x))."""

    def __init__(self, config: Config):
        super().__init__()
        width, inner = config.hidden_size, config.mlp_size
        has_scale = config.layerscale_value is not None
        self.act = ACTIVATIONS[config.hidden_act]
        self.layernorm_before = nn.LayerNorm(width, config.layer_norm_eps)
        self.attention = AttentionAndOutput(config)
        self.layer_scale = LayerScale(config) if has_scale else nn.Identity()
        self.layernorm_after = nn.LayerNorm(width, config.layer_norm_eps)
        self.intermediate = nn.ModuleDict({"up_proj": nn.Linear(width, inner)})
        if config.use_gated_mlp:
            self.intermediate["gate_proj"] = nn.Linear(width, inner)
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width)})
        self.output["layer_scale"] = LayerScale(config) if has_scale else nn.Identity()

    def mlp(self, x: Tensor) -> Tensor:
        inner = self.intermediate["up_proj"](x)
        if "gate_proj" in self.intermediate:
            inner = self.act(self.intermediate["gate_proj"](x)) * inner
        else:
            inner = self.act(inner)
        return self.output["dense"](inner)

    def forward(self, x: Tensor, angles: Angles | None, attentions: list[Tensor] | None) -> Tensor:
        x = x + self.layer_scale(self.attention(self.layernorm_before(x), angles, attentions))
        return x + self.output["layer_scale"](self.mlp(self.layernorm_after(x)))


class Embeddings(nn.Module):
    """Images [B, C, S, S] -> the class token and the patches in raster order [B, N, D]."""

    def __init__(self, config: Config):
        super().__init__()
        patch = config.patch_size
        self.width, self.patches = config.hidden_size, config.patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        projection = nn.Conv2d(config.num_channels, config.hidden_size, patch, stride=patch)
        self.patch_embeddings = nn.ModuleDict({"projection": projection})

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embeddings["projection"](images).reshape(images.shape[0], self.width, self.patches)
        return torch.cat([self.cls_token.expand(images.shape[0], 1, self.width), patches.transpose(1, 2)], 1)


class Backbone(nn.Module):
    """The network without its head."""

    def __init__(self, config: Config):
        super().__init__()
        blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": blocks})
        self.layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def blocks(self) -> Iterator[nn.Module]:
        """Its blocks in their order."""
        return self.encoder["layer"].children()


class VitNepa(nn.Module):
    """A ViT-NEPA, with a classification head where `num_labels` is not 0. `config` is its configuration."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.vit_nepa = Backbone(config)
        if config.num_labels > 0:
            if config.add_pooling_layer:
                self.fc_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
            self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def encode(self, images: Tensor, attentions: bool = False) -> Output:
        """The forward pass of `images` [B, C, S, S], normalised as `nepa.transform` does, with all its outputs."""
        expected = [self.config.num_channels, self.config.image_size, self.config.image_size]
        if images.dim() != 4 or list(images.shape[1:]) != expected:
            found = f"expected images [B, {str(expected)[1:]}, found {list(images.shape)}"
            raise NepaError(found, "nepa.transform makes them of pictures; torch.stack makes a batch of several")
        angles = rotary_angles(self.config, images.device)
        probabilities: list[Tensor] = []
        x = z = self.vit_nepa.embeddings(images)
        hidden_states = [z]
        for block in self.vit_nepa.blocks():
            x = block(x, angles, probabilities if attentions else None)
            hidden_states.append(x)
        h = self.vit_nepa.layernorm(x)
        logits = self.classify(h) if self.config.num_labels > 0 else None
        return Output(z, h, hidden_states, probabilities, logits)

    def classify(self, h: Tensor) -> Tensor:
        """The logits [B, num_labels] of the final norm's output: of the mean over the patches, or of the last token."""
        return self.classifier(self.fc_norm(h[:, 1:].mean(1)) if self.config.add_pooling_layer else h[:, -1])

    def forward(self, images: Tensor) -> Tensor:
        """The logits [B, num_labels] of a model with a head, else the final norm's output [B, N, D]."""
        output = self.encode(images)
        return output.last_hidden_state if output.logits is None else output.logits


def load(path: str | os.PathLike[str], weights: str | None = None, part: str | None = None) -> VitNepa:
    """Loads a model in evaluation mode, on the CPU, in float32.

    `path` is a model folder (nepa's or Hugging Face's), a file of weights beside a config.json, a training checkpoint,
    or a run, whose newest checkpoint is taken. `weights` is "raw" or "ema" (averaged), or None for the only ones.
    `part` is "encoder", without the classification head, or "classifier", which has one; None takes the model as it is.
    Names of tensors may have something before them, such as `module.` or `state_dict.`. Raises NepaError, which says
    what to do, if a tensor or a key of the configuration does not fit, or a weight is not finite.
    """
    if part not in [None, "encoder", "classifier"]:
        near = did_you_mean(str(part), ["encoder", "classifier"])
        raise NepaError(f'unknown part "{part}"{near}', 'expected "encoder" or "classifier"')
    file = find_weights(Path(path), weights)
    config = read_config(file.with_name("config.json"))
    tensors = _own(file, read_tensors(file))
    head = tensors.get("classifier.weight")
    # A configuration names the classes, and not always their number.
    config = config.with_labels(file, 0 if head is None else len(head))
    if part == "classifier" and head is None:
        raise NepaError(f"{file.parent} holds no classifier", 'fine-tune it first, or load part="encoder"')
    if part == "encoder":
        config = config.with_labels(None, 0)
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("vit_nepa.")}
    with torch.device("meta"):
        model = VitNepa(config)
    _check(file, {name: tensor.shape for name, tensor in model.state_dict().items()}, tensors)
    _check_numbers(file, tensors)
    copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
    model.load_state_dict(copies, assign=True)
    return model.eval()


def _own(file: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the one model in a file by their own names, without what stands before all of these."""
    stems = [name.removesuffix(PATCH_EMBEDDING) for name in tensors if name.endswith(PATCH_EMBEDDING)]
    found = sorted({stem for stem in stems if not stem or stem.endswith(".")})
    if len(found) > 1:
        begin = ", ".join(f"`{stem}`" for stem in found)
        hint = f"nepa import {file} DEST --prefix {found[0].rstrip('.')} makes a folder of one of them"
        raise NepaError(f"{file} holds several models, whose tensors begin with {begin}", hint)
    before = found[0] if found else ""
    return {name.removeprefix(before): tensor for name, tensor in tensors.items() if name.startswith(before)}


def _check_numbers(file: Path, tensors: dict[str, Tensor]) -> None:
    """That weights are floats, none of them NaN or infinite."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            hint = "weights are float32, bfloat16 or float16; quantised ones are not read"
            raise NepaError(f"{file}: the tensor `{name}` is {str(tensor.dtype).removeprefix('torch.')}", hint)
        if not tensor.isfinite().all():
            hint = "the training that made it has diverged"
            raise NepaError(f"{file}: the tensor `{name}` holds NaN or infinite values", hint)


def _check(file: Path, shapes: dict[str, torch.Size], tensors: dict[str, Tensor]) -> None:
    """That a file has all tensors of a model, in these shapes, and no others."""
    missing = [name for name in shapes if name not in tensors]
    unexpected = [name for name in tensors if name not in shapes]
    misshapen = [name for name in shapes if name in tensors and shapes[name] != tensors[name].shape]
    count = len(missing) + len(unexpected) + len(misshapen)
    if count == 0:
        return
    faults = [f"missing: {name}{did_you_mean(name, unexpected)}" for name in missing[:SHOWN]]
    faults += [f"unexpected: {name}" for name in unexpected[:SHOWN]]
    for name in misshapen[:SHOWN]:
        shape = list(tensors[name].shape)
        faults.append(f"wrong shape: {name}: the model has {list(shapes[name])}, the file has {shape}")
    more = [f"… and {count - SHOWN} more"] if count > SHOWN else []
    lines = [f"{file} does not fit the model of its config.json:", *faults[:SHOWN], *more]
    raise NepaError("\n  ".join(lines), "are config.json and the weights those of one model?")
