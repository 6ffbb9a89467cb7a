"""The reference's own pretraining step: one for every line of input, its times as a line of output.

    python peer.py --reference DIR --batch 8 --layers 12 --dtype bfloat16 --device cpu --threads 2

DIR is a checkout of the reference implementation. Its model, and what its Trainer does with the options of its
pretraining script: autocast, loss, backward, clipping, AdamW (`adamw_torch`), and its average of the weights.
"""

import argparse
import copy
import json
import resource
import sys
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--reference", required=True)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--layers", type=int, default=12)
parser.add_argument("--dtype", default="float32")
parser.add_argument("--device", default="cpu")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--compile", action="store_true", help="torch.compile")
args = parser.parse_args()

# The reference prints notes while it is imported; answers alone go to standard output.
answers, sys.stdout = sys.stdout, sys.stderr
sys.path.insert(0, args.reference)
from models.vit_nepa import ViTNepaConfig, ViTNepaForPreTraining  # noqa: E402
from transformers.trainer_pt_utils import get_parameter_names  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)
device = torch.device(args.device)
config = ViTNepaConfig.from_pretrained(f"{args.reference}/configs/pretrain/nepa-base-patch14-224")
config.num_hidden_layers = args.layers
model = ViTNepaForPreTraining(config).to(device)
model.train()

# As EnhancedTrainer's.
patterns = [r"bias", r"layernorm", r"rmsnorm", r"layer_scale", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
decay = set(get_parameter_names(model, [torch.nn.LayerNorm], patterns))
groups = [
    {"params": [p for n, p in model.named_parameters() if n in decay], "weight_decay": 0.05},
    {"params": [p for n, p in model.named_parameters() if n not in decay], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
ema = copy.deepcopy(model).eval().float()
for p in ema.parameters():
    p.requires_grad_(False)

if args.compile:
    # The module itself stays as it is: optimizer and average have its parameters.
    model.compile()

images = torch.randn(args.batch, 3, config.image_size, config.image_size, device=device)


def update_ema(rate=0.9999):
    with torch.no_grad():
        state = model.state_dict()
        for name, value in ema.state_dict().items():
            value.mul_(rate).add_(state[name].float(), alpha=1.0 - rate)


for _ in sys.stdin:
    times, last, cpu = [], time.perf_counter(), time.process_time()

    def lap():
        global last
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        times.append(now - last)
        last = now

    with torch.autocast(device.type, torch.bfloat16, enabled=args.dtype == "bfloat16"):
        loss = model(pixel_values=images).loss
    lap()
    loss.backward()
    lap()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    lap()
    update_ema()
    lap()
    cpu = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"times": times, "cpu": cpu, "peak": peak}), file=answers, flush=True)
