"""The PyTorch reference's side of a benchmark: a turn for every line of input, what it took as a line of output.

    python peer.py --reference DIR --batch 8 --dtype bfloat16 --device cpu --threads 2

DIR is a checkout of the reference implementation, github.com/SihanXU/nepa. The model is the reference's own. A turn of `--task train` is a
pretraining step as its Trainer takes it with the options of its pretraining script: autocast, loss, backward, clipping,
AdamW (`adamw_torch`), and its average of the weights. One of `classify` or `features` is a forward pass without
gradients, of the classifier, or of the encoder with the mean of its patch tokens: of a batch, or with `--images` of all
pictures in a folder, as torchvision's `ImageFolder` and a `DataLoader` with as many workers as threads read them.
"""

import argparse
import copy
import json
import multiprocessing
import os
import resource
import sys
import time

import torch

MODEL = "configs/pretrain/nepa-base-patch14-224"


def arguments():
    parser = argparse.ArgumentParser(description="The PyTorch reference's side of a benchmark.")
    parser.add_argument("--reference", required=True, metavar="DIR", help="a checkout of the reference implementation")
    parser.add_argument("--config", metavar="JSON", help=f"the model's config.json as text; {MODEL} unless given")
    parser.add_argument("--task", default="train", choices=["train", "classify", "features"])
    parser.add_argument("--images", metavar="DIR", help="a folder of class folders, for evaluation from files")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    return parser.parse_args()


class Laps:
    """The seconds of a turn's parts."""

    def __init__(self, device):
        self.device, self.times, self.last = device, [], time.perf_counter()

    def lap(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.times.append(now - self.last)
        self.last = now


def configuration(args):
    from models.vit_nepa import ViTNepaConfig

    if args.config is None:
        return ViTNepaConfig.from_pretrained(f"{args.reference}/{MODEL}")
    return ViTNepaConfig(**json.loads(args.config))


def random_images(args, config, device):
    return torch.randn(args.batch, config.num_channels, config.image_size, config.image_size, device=device)


def autocast(args, device):
    return torch.autocast(device.type, torch.bfloat16, enabled=args.dtype == "bfloat16")


def optimizer_of(model):
    """As EnhancedTrainer's."""
    from transformers.trainer_pt_utils import get_parameter_names

    patterns = [r"bias", r"layernorm", r"rmsnorm", r"layer_scale", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    decay = set(get_parameter_names(model, [torch.nn.LayerNorm], patterns))
    groups = [
        {"params": [p for n, p in model.named_parameters() if n in decay], "weight_decay": 0.05},
        {"params": [p for n, p in model.named_parameters() if n not in decay], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)


def training(args, device):
    """The model, and a turn: a step."""
    from models.vit_nepa import ViTNepaForPreTraining

    config = configuration(args)
    model = ViTNepaForPreTraining(config).to(device)
    model.train()
    optimizer = optimizer_of(model)
    ema = copy.deepcopy(model).eval().float()
    for p in ema.parameters():
        p.requires_grad_(False)
    if args.compile:
        # The module itself stays as it is: optimizer and average have its parameters.
        model.compile()
    images = random_images(args, config, device)

    def update_ema(rate=0.9999):
        with torch.no_grad():
            state = model.state_dict()
            for name, value in ema.state_dict().items():
                value.mul_(rate).add_(state[name].float(), alpha=1.0 - rate)

    def turn(laps):
        with autocast(args, device):
            loss = model(pixel_values=images).loss
        laps.lap()
        loss.backward()
        laps.lap()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        laps.lap()
        update_ema()
        laps.lap()

    return model, turn


def loader(args, config):
    """Batches of pictures, prepared for evaluation."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    size = config.image_size
    resize = transforms.Resize(size * 8 // 7, interpolation=transforms.InterpolationMode.BICUBIC)
    normalize = transforms.Normalize([0.5] * 3, [0.5] * 3)
    prepare = transforms.Compose([resize, transforms.CenterCrop(size), transforms.ToTensor(), normalize])
    # Workers stay, so that no turn waits for them to start.
    return DataLoader(ImageFolder(args.images, prepare), args.batch, num_workers=args.threads, persistent_workers=True)


def evaluation(args, device):
    """The model, and a turn: a batch, or a pass over the pictures."""
    from models.vit_nepa import ViTNepaForImageClassification, ViTNepaModel

    config = configuration(args)
    model = (ViTNepaForImageClassification if args.task == "classify" else ViTNepaModel)(config).to(device)
    model.eval()
    if args.compile:
        model.compile()

    def forward(images):
        with torch.inference_mode(), autocast(args, device):
            found = model(pixel_values=images)
            return found.logits if args.task == "classify" else found.last_hidden_state[:, 1:].mean(dim=1)

    batches = [random_images(args, config, device)] if args.images is None else loader(args, config)

    def turn(laps):
        for images in batches:
            forward(images if args.images is None else images[0].to(device))
        laps.lap()

    return model, turn


def processor_time():
    """CPU time of the process and of the loader's workers in seconds."""
    seconds = time.process_time()
    for worker in multiprocessing.active_children():
        with open(f"/proc/{worker.pid}/stat") as stat:
            # Behind the name, which may have blanks: user and system time are the 12th and 13th.
            user, system = stat.read().rsplit(")", 1)[1].split()[11:13]
        seconds += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return seconds


def peak_memory(device):
    """The most memory until now in bytes: of the process, or on a GPU of its tensors."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(answer):
    args = arguments()
    sys.path.insert(0, args.reference)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    model, turn = (training if args.task == "train" else evaluation)(args, device)
    parameters = sum(p.numel() for p in model.parameters())
    for _ in sys.stdin:
        cpu, laps = processor_time(), Laps(device)
        turn(laps)
        cpu = processor_time() - cpu
        answer({"times": laps.times, "cpu": cpu, "peak": peak_memory(device), "parameters": parameters})


# The reference prints notes while it is imported; answers alone go to standard output.
answers, sys.stdout = sys.stdout, sys.stderr


def answer(value):
    print(json.dumps(value), file=answers, flush=True)


try:
    main(answer)
except Exception as error:
    # For who asks for turns; the rest is on standard error.
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    answer({"error": f"{type(error).__name__}: {first}"})
    raise
