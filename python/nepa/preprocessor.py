"""How a picture becomes the input of a model, as the preprocessor_config.json of its folder says."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nepa.config import read_config
from nepa.errors import NepaError, need
from nepa.json_file import read_object
from nepa.weights import find_weights

if TYPE_CHECKING:
    import PIL.Image
    import torch

FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class Normalization:
    """Pixels of 0 to 255 times `factor`, minus `mean`, divided by `std`, which have a value for each channel."""

    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    of_pictures: bool
    """Whether these are pixels of 8 bits. If not, and the factor is 1, they are what nepa's mode "unchanged" makes them:
    floats as they are, integers divided by the greatest value of their type."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [..., C, S, S], such as uint8 -> float32."""
        import torch

        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        return (pixels.to(torch.float32) * self.factor - mean) / std


@dataclass(frozen=True)
class Transform:
    """A picture -> the input of a model [C, S, S], float32: resized, cropped and normalised as the model's folder says.
    The Exif orientation is left alone; PIL.ImageOps.exif_transpose turns a picture."""

    size: tuple[int, int] | int | None
    """Height and width, the shorter side, or None: as it is."""
    crop: tuple[int, int] | None
    """Height and width of what is cut out of the middle."""
    resample: int
    """Pillow's number of the interpolation: 2 is bilinear, 3 bicubic."""
    normalize: Normalization

    def __call__(self, image: PIL.Image.Image) -> torch.Tensor:
        numpy = need("numpy", "nepa.transform")
        import torch

        modes = {1: "L", 3: "RGB"}
        channels = len(self.normalize.mean)
        if channels in modes and not self.normalize.of_pictures:
            hint = "make a tensor [C, S, S] of the model's image size, and normalise it: transform.normalize(pixels)"
            raise NepaError("the model was not trained on pictures of 8 bits, but on images as they are", hint)
        if channels not in modes:
            hint = "make a tensor [C, S, S] of the model's image size, and normalise it: transform.normalize(pixels)"
            raise NepaError(f"a picture has 1 or 3 channels, but the model takes {channels}", hint)
        image = image.convert(modes[channels])
        if self.size is not None:
            image = image.resize(_target(self.size, image.size), self.resample)
        if self.crop is not None:
            height, width = self.crop
            left, top = round((image.width - width) / 2), round((image.height - height) / 2)
            image = image.crop((left, top, left + width, top + height))
        pixels = torch.from_numpy(numpy.array(image).reshape(image.height, image.width, channels))
        return self.normalize(pixels.permute(2, 0, 1))


def _target(size: tuple[int, int] | int, image: tuple[int, int]) -> tuple[int, int]:
    """The width and height that a picture of this width and height gets."""
    if isinstance(size, tuple):
        return size[1], size[0]
    width, height = image
    longer = int(size * max(image) / min(image))
    return (size, longer) if width <= height else (longer, size)


def transform(path: str | os.PathLike[str], weights: str | None = None) -> Transform:
    """The transform of a model's pictures, if its folder has a preprocessor_config.json. `path` and `weights` are what
    `nepa.load` takes."""
    folder = find_weights(Path(path), weights).parent
    place = folder / FILE
    if not place.is_file():
        hint = "prepare pictures as those were prepared that the model was trained on"
        raise NepaError(f"{folder} has no {FILE}, and so does not say how its pictures are prepared", hint)
    keys = _read(place)
    crop = _size(place, "crop_size", keys.get("crop_size")) if keys.get("do_center_crop") else None
    return Transform(
        size=_sides(keys, _size(place, "size", keys.get("size"))) if keys.get("do_resize", True) else None,
        crop=(crop, crop) if isinstance(crop, int) else crop,
        resample=keys.get("resample", 2),
        normalize=read_normalization(folder),
    )


def read_normalization(folder: Path) -> Normalization:
    """How a model folder says that its images are normalised; without a preprocessor_config.json, by 0.5 and 0.5, as in
    the reference."""
    channels = read_config(folder / "config.json").num_channels
    place = folder / FILE
    keys = _read(place) if place.is_file() else {}
    rescales, normalizes = keys.get("do_rescale", True), keys.get("do_normalize", True)
    factor = keys.get("rescale_factor", 1 / 255) if rescales else 1.0
    if not isinstance(factor, int | float) or factor <= 0:
        raise NepaError(f"{place}: rescale_factor is {factor}, expected a number above 0", "correct it")
    if normalizes:
        mean, std = (_values(place, name, keys.get(name), channels) for name in ["image_mean", "image_std"])
    else:
        mean, std = (0.0,) * channels, (1.0,) * channels
    usual, of_16_bits = (math.isclose(factor, 1 / most, rel_tol=1e-6) for most in [255, 65535])
    if usual or of_16_bits or keys.get("image_mode") == "unchanged":
        return Normalization(float(factor), mean, std, of_pictures=usual)
    lowest, highest = min(*mean, *std), max(*mean, *std)
    numbers = f"image_mean {list(mean)} and image_std {list(std)}"
    if channels in [1, 3] and normalizes and not rescales and 0 <= lowest and highest <= 1:
        hint = "set do_rescale to true, if pixels are divided by 255 before; set rescale_factor to 1, too, if they are not"
        raise NepaError(f"{place}: do_rescale is false, but {numbers} are those of pixels from 0 to 1", hint)
    of_pictures = channels in [1, 3] and 0 <= lowest and highest <= 255 * factor
    if rescales and not of_pictures:
        hint = 'for images of more bits, set image_mode to "unchanged", do_rescale to false, and mean and deviation for it'
        raise NepaError(f"{place}: rescale_factor is {factor}, but {numbers} are not those of pictures of 8 bits", hint)
    # Without a division, and beyond what 8 bits hold: images as they are.
    return Normalization(float(factor), mean, std, of_pictures)


def _read(place: Path) -> dict[str, Any]:
    return read_object(place, "correct it, or remove it")


def _values(place: Path, name: str, value: Any, channels: int) -> tuple[float, ...]:
    """A value for each channel; equal ones count for any number of channels."""
    values = [0.5] if value is None else value if isinstance(value, list) else [value]
    if values and all(other == values[0] for other in values):
        values = values[:1] * channels
    if len(values) != channels or not all(isinstance(number, int | float) for number in values):
        raise NepaError(f"{place}: {name} is {value}, expected {channels} numbers", "correct it")
    return tuple(float(number) for number in values)


def _sides(keys: dict[str, Any], size: tuple[int, int] | int) -> tuple[int, int] | int:
    """A single number means both sides to the processors of ViT, DeiT and MAE, the shorter one to DINOv2's and CLIP's."""
    named = [str(keys.get(key, "")) for key in ("image_processor_type", "feature_extractor_type")]
    is_number = isinstance(keys.get("size"), int)
    return (size, size) if is_number and any(name.startswith(("ViT", "DeiT")) for name in named) else size


def _size(place: Path, name: str, value: Any) -> tuple[int, int] | int:
    """Height and width, or the shorter side."""
    match value:
        case {"height": int(height), "width": int(width)}:
            return height, width
        case {"shortest_edge": int(side)} | int(side):
            return side
    raise NepaError(f"{place}: {name} is {value}, expected a height and a width, or the shortest edge", "correct it")
