"""Makes tiny models of other projects with random weights, saves each as its library does, and beside it images and what it
computes of them: NAME.io.safetensors with images, last (tokens after the final norm) and attention (of the first block)."""

import json
import math
import os
import sys

import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.models._hub import save_for_hf

torch.manual_seed(1)
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()


def randomised(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.2)
            if "norm" in name and name.endswith("weight") or "lambda" in name or "gamma" in name:
                parameter.add_(1.0)
    return model.eval()


def keep(name, images, last, attention=None, registers=0, prefix=1):
    """Without registers, which are gone after the blocks here."""
    last = torch.cat([last[:, :prefix], last[:, prefix + registers :]], 1)
    tensors = {"images": images, "last": last.contiguous()}
    if attention is not None:
        tensors["attention"] = attention.contiguous()
    save_file(tensors, f"{name}.io.safetensors")


def images(size):
    return torch.randn(2, 3, size, size)


# ---- transformers ----

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=7)


def of_transformers(name, model, call=None, size=28, registers=0, saved=None, processor=None):
    model = randomised(model)
    (saved or model).save_pretrained(name)
    (processor or transformers.ViTImageProcessor(image_mean=[0.4, 0.5, 0.6])).save_pretrained(name)
    x = images(size)
    with torch.no_grad():
        out = (call or model)(x, output_attentions=True)
    attention = out.attentions[0] if out.attentions else None
    keep(name, x, out.last_hidden_state, attention, registers)


def transformers_models():
    eager = dict(attn_implementation="eager")
    t = transformers
    of_transformers("dinov2", t.Dinov2Model(t.Dinov2Config(**SMALL, **eager)))
    of_transformers("dinov2-no-bias", t.Dinov2Model(t.Dinov2Config(**SMALL, **eager, qkv_bias=False)))
    of_transformers("dinov2-swiglu", t.Dinov2Model(t.Dinov2Config(**SMALL, **eager, use_swiglu_ffn=True)))
    of_transformers("dinov2-larger", t.Dinov2Model(t.Dinov2Config(**SMALL, **eager)), size=42)
    registers = t.Dinov2WithRegistersConfig(**SMALL, **eager, num_register_tokens=3, use_swiglu_ffn=True)
    crop = t.BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}, resample=3)
    of_transformers("dinov2-registers", t.Dinov2WithRegistersModel(registers), registers=3, processor=crop)
    of_transformers("dinov2-registers-smaller", t.Dinov2WithRegistersModel(registers), size=14, registers=3)
    plain = t.DINOv3ViTConfig(**SMALL, **eager, intermediate_size=48, num_register_tokens=4)
    of_transformers("dinov3", t.DINOv3ViTModel(plain), registers=4)
    of_transformers("dinov3-larger", t.DINOv3ViTModel(plain), size=42, registers=4)
    gated = dict(intermediate_size=48, use_gated_mlp=True, hidden_act="silu", key_bias=True, rope_theta=50.0)
    of_transformers("dinov3-gated", t.DINOv3ViTModel(t.DINOv3ViTConfig(**SMALL, **eager, **gated)))
    vit = t.ViTConfig(**SMALL, **eager, intermediate_size=64)
    of_transformers("vit", t.ViTModel(vit))
    classifier = randomised(t.ViTForImageClassification(vit))
    of_transformers("vit-classifier", classifier, classifier.vit, saved=classifier)
    decoder = dict(decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2)
    mae = randomised(t.ViTMAEForPreTraining(t.ViTMAEConfig(**SMALL, **eager, **decoder, intermediate_size=64, mask_ratio=0.0)))
    order = torch.arange(16.0).repeat(2, 1)
    of_transformers("mae", mae, lambda x, **o: mae.vit(x, noise=order, **o), saved=mae)


# ---- timm ----


def of_timm(name, architecture, size=28, registers=0, prefix=1, file=None, **arguments):
    arguments = dict(dict(embed_dim=32, depth=2, num_heads=4, img_size=28, patch_size=7), **arguments)
    model = randomised(timm.create_model(architecture, **arguments))
    seen = []
    attention = model.blocks[0].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda module, given, out: seen.append(out))
    x = images(size)
    with torch.no_grad():
        last = model.forward_features(x)
    keep(name, x, last, seen[0], registers, prefix)
    if file:
        torch.save({"model": model.state_dict(), "epoch": 3}, file)
    else:
        arguments = {key: value for key, value in arguments.items() if key != "dynamic_img_size"}
        save_for_hf(model, name, model_args=arguments, safe_serialization=len(name) % 2 == 0)


def timm_models():
    of_timm("timm-vit", "vit_base_patch16_224")
    of_timm("timm-deit3", "deit3_small_patch16_224")
    of_timm("timm-larger", "vit_base_patch16_224", size=42, dynamic_img_size=True)
    of_timm("timm-gap", "vit_medium_patch16_gap_240", prefix=0)
    of_timm("timm-gap-registers", "vit_medium_patch16_reg4_gap_256", registers=4, prefix=0)
    of_timm("timm-no-class", "vit_base_patch16_224", size=21, img_size=21, no_embed_class=True, reg_tokens=4, registers=4)
    of_timm("timm-norms", "vit_small_patch16_224", qk_norm=True, reg_tokens=2, registers=2, init_values=0.1)
    of_timm("timm-dinov2", "vit_giant_patch14_reg4_dinov2", registers=4)
    of_timm("timm-dinov3", "vit_small_patch16_dinov3", registers=4)
    of_timm("timm-dinov3-larger", "vit_small_patch16_dinov3", registers=4, size=42)
    of_timm("timm-dinov3-plus", "vit_small_plus_patch16_dinov3_qkvb", registers=4)
    of_timm("mae.pth", "vit_base_patch16_224", file="mae.pth", num_classes=0)


# ---- stable-pretraining's NEPA, from its description ----


def stable_pretraining(name, size=28, patch=7, width=32, heads=4, depth=2, inner=40):
    d = width // heads
    shapes = {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        for norm in ["norm1", "norm2"]:
            shapes |= {f"blocks.{i}.{norm}.weight": (width,), f"blocks.{i}.{norm}.bias": (width,)}
        shapes |= {f"blocks.{i}.attn.qkv.weight": (3 * width, width), f"blocks.{i}.attn.qkv.bias": (3 * width,)}
        shapes |= {f"blocks.{i}.attn.proj.weight": (width, width), f"blocks.{i}.attn.proj.bias": (width,)}
        shapes |= {f"blocks.{i}.mlp.w1.weight": (inner, width), f"blocks.{i}.mlp.w2.weight": (inner, width)}
        shapes |= {f"blocks.{i}.mlp.w3.weight": (width, inner), f"blocks.{i}.ls1": (width,), f"blocks.{i}.ls2": (width,)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    w = {key: torch.randn(shape) * 0.2 + ("norm" in key and "weight" in key) for key, shape in shapes.items()}
    frequencies = 10000.0 ** (-torch.arange(d // 4) / (d // 4))
    x = images(size)
    grid = size // patch
    place = torch.arange(grid).float()
    rows = place.repeat_interleave(grid)[:, None] * frequencies
    columns = place.repeat(grid)[:, None] * frequencies
    angles = torch.cat([rows, rows, columns, columns], 1)[:, ::2]
    linear, norm = torch.nn.functional.linear, torch.nn.functional.layer_norm

    def turned(t):
        """Neighbouring channels as complex numbers."""
        pairs = torch.view_as_complex(t.reshape(*t.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    h = torch.nn.functional.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], patch).flatten(2).mT
    attention = None
    for i in range(depth):
        of = lambda key: w[f"blocks.{i}.{key}"]
        y = norm(h, [width], of("norm1.weight"), of("norm1.bias"))
        qkv = linear(y, of("attn.qkv.weight"), of("attn.qkv.bias")).reshape(2, -1, 3, heads, d).permute(2, 0, 3, 1, 4)
        q, k = [turned(norm(part, [d])) for part in qkv[:2]]
        scores = q @ k.mT / math.sqrt(d)
        future = torch.ones(scores.shape[-2:]).triu(1).bool()
        p = scores.masked_fill(future, float("-inf")).softmax(-1)
        attention = p if attention is None else attention
        y = linear((p @ qkv[2]).transpose(1, 2).flatten(2), of("attn.proj.weight"), of("attn.proj.bias"))
        h = h + of("ls1") * y
        y = norm(h, [width], of("norm2.weight"), of("norm2.bias"))
        silu = torch.nn.functional.silu(linear(y, of("mlp.w1.weight")))
        h = h + of("ls2") * linear(silu * linear(y, of("mlp.w2.weight")), of("mlp.w3.weight"))
    keep(name, x, norm(h, [width], w["norm.weight"], w["norm.bias"]), attention, prefix=0)
    for i in range(depth):
        w[f"blocks.{i}.attn.rope.inv_freq"] = frequencies
    # As Lightning saves it.
    torch.save(
        {
            "epoch": 3,
            "global_step": 100,
            "pytorch-lightning_version": "2.6.0",
            "state_dict": w | {"callbacks_modules.probe.weight": torch.zeros(3, width)},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.1}]}],
            "hyper_parameters": {"lr": 0.1},
        },
        name,
    )


os.chdir(sys.argv[1])
transformers_models()
timm_models()
stable_pretraining("nepa.ckpt")
print(json.dumps("made"))
