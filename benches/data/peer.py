"""The peer of the data benchmark: torchvision's ImageFolder and PyTorch's DataLoader, as they are used.

    python peer.py --data images/110kb --task a --workers 0 --cores 0 --seconds 10

Tasks: `a` augments for pretraining, `b` prepares for evaluation, `c` augments for fine-tuning (timm),
`decode` opens files and converts them to RGB, no more. One line of JSON on standard output.
"""

import argparse
import json
import os
import platform
import time

import numpy
import PIL
import timm
import torch
import torchvision
from PIL import features
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.transforms import InterpolationMode

MEAN = STD = (0.5, 0.5, 0.5)


def nothing(picture):
    return picture.size[0]


def transform(task: str):
    end = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if task == "a":
        crop = transforms.RandomResizedCrop(224, scale=(0.08, 1.0), interpolation=InterpolationMode.BILINEAR)
        return transforms.Compose([crop, transforms.RandomHorizontalFlip(), *end])
    if task == "b":
        size = transforms.Resize(256, interpolation=InterpolationMode.BICUBIC)
        return transforms.Compose([size, transforms.CenterCrop(224), *end])
    if task == "c":
        return timm.data.create_transform(
            224,
            is_training=True,
            auto_augment="rand-m9-mstd0.5-inc1",
            interpolation="bicubic",
            re_prob=0.25,
            re_mode="pixel",
            mean=MEAN,
            std=STD,
        )
    return nothing


def main():
    parser = argparse.ArgumentParser(description="The peer of the data benchmark: images per second.")
    parser.add_argument("--data", required=True, metavar="DIR", help="a folder of classes, as ImageFolder reads it")
    parser.add_argument("--task", required=True, choices=["a", "b", "c", "decode"])
    parser.add_argument("--batch", type=int, default=64, help="images in a batch (%(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0: all in this process, one thread")
    parser.add_argument("--cores", metavar="LIST", help="run on these cores only (this process and its workers), e.g. 0 or 0,1")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure, after a warm-up (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    if options.cores:
        os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})
    if options.workers == 0:
        torch.set_num_threads(1)
    torch.manual_seed(options.seed)

    dataset = torchvision.datasets.ImageFolder(options.data, transform(options.task))
    # Drawn with replacement, without end: an epoch of ImageNet is 20,000 batches, so no epoch ends while we measure.
    sampler = RandomSampler(dataset, replacement=True, num_samples=1 << 40)
    loader = DataLoader(dataset, options.batch, sampler=sampler, num_workers=options.workers)

    batches = iter(loader)
    # Every worker has started and given a few batches, and what was loaded ahead is consumed.
    for _ in range(2 + 4 * options.workers):
        next(batches)
    images, start, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - start) < options.seconds:
        images += len(next(batches)[1])
    cpu = time.process_time() - cpu

    result = {
        "task": options.task,
        "workers": options.workers,
        "images_per_s": round(images / elapsed, 1),
        # By the time that the process had a core: steadier where other programs run. Workers' time is not in it.
        "images_per_cpu_s": round(images / cpu, 1) if options.workers == 0 else None,
        "images": images,
        "seconds": round(elapsed, 2),
        "cores": sorted(os.sched_getaffinity(0)),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "timm": timm.__version__,
            "numpy": numpy.__version__,
            "pillow": PIL.__version__,
            "libjpeg-turbo": features.version_feature("libjpeg_turbo"),
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
