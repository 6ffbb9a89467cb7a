"""Files of named tensors: safetensors, and those of torch.save, which PyTorch reads without running what is in them.

A safetensors file is the length of its header (8 bytes, little-endian), the header (JSON: dtype, shape and place of
each tensor) and the tensors' bytes. Reading it here needs no further package.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nepa.errors import NepaError

if TYPE_CHECKING:
    import numpy
    import torch

# By the names of safetensors: PyTorch's name and the size of an element.
DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
DAMAGED = "it was cut short or damaged; copy or save it again"


class Stored(NamedTuple):
    """A tensor in a safetensors file: its dtype, its shape, and where in the file it starts."""

    dtype: str
    shape: list[int]
    start: int


class Safetensors(NamedTuple):
    """A safetensors file: its tensors and its metadata, by name."""

    path: Path
    content: mmap.mmap
    tensors: dict[str, Stored]
    metadata: dict[str, str]

    def array(self, name: str) -> numpy.ndarray:
        """A tensor of any dtype but bfloat16, which numpy lacks. It lies in the file's memory."""
        import numpy

        dtype, shape, start = self.tensors[name]
        if dtype == "bfloat16":
            raise NepaError(f"{self.path}: `{name}` is bfloat16, which numpy lacks", "save it as float32")
        return numpy.frombuffer(self.content, dtype, math.prod(shape), start).reshape(shape)

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor. It lies in the file's memory."""
        import torch

        dtype, shape, start = self.tensors[name]
        count, kind = math.prod(shape), getattr(torch, dtype)
        if count == 0:
            return torch.empty(shape, dtype=kind)
        return torch.frombuffer(self.content, dtype=kind, count=count, offset=start).reshape(shape)


def read_safetensors(path: Path) -> Safetensors:
    """Opens a safetensors file, whose tensors are read once they are asked for."""
    try:
        with open(path, "rb") as file:
            # What is written to its tensors stays in memory.
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return Safetensors(path, content, *_header(content))
    except OSError as e:
        raise NepaError(f"cannot read {path}: {e.strerror}", "give a .safetensors file") from None
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise NepaError(f"{path} is not a complete safetensors file: {e}", DAMAGED) from None


def _header(content: mmap.mmap) -> tuple[dict[str, Stored], dict[str, str]]:
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError("its header is cut short")
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors, begin = {}, 8 + length
    for name, about in header.items():
        dtype, shape, (first, last) = about["dtype"], about["shape"], about["data_offsets"]
        if dtype not in DTYPES:
            raise ValueError(f"tensor `{name}` has dtype {dtype}, which is not supported")
        name_of_dtype, size = DTYPES[dtype]
        fits = all(side >= 0 for side in shape) and last - first == math.prod(shape) * size
        if not fits or not 0 <= first <= last <= len(content) - begin:
            raise ValueError(f"tensor `{name}` does not lie where the header says")
        tensors[name] = Stored(name_of_dtype, shape, begin + first)
    return tensors, metadata


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file: safetensors, one of torch.save, or an index of several (`….index.json`). Names in nested
    dictionaries of torch.save are joined with dots, such as `state_dict.head.weight`."""
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        file = read_safetensors(path)
        return {name: file.tensor(name) for name in file.tensors}
    import torch

    try:
        # Weights alone: no code in the file is run.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch.load raises many kinds.
        raise NepaError(f"cannot read {path}: {str(e).splitlines()[0]}", "expected weights by torch.save") from None
    tensors = dict(_flat("", content)) if isinstance(content, dict) else {}
    if not tensors:
        raise NepaError(f"{path} holds no tensors by name", "expected a state_dict, saved with torch.save")
    return tensors


def _flat(before: str, content: dict[Any, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{before}{key}", value
        elif isinstance(value, dict):
            yield from _flat(f"{before}{key}.", value)


def _read_shards(index: Path) -> dict[str, torch.Tensor]:
    places = _weight_map(index)
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted(set(places.values())):
        file = index.with_name(name)
        if not file.is_file():
            hint = "copy it too: a model needs all of its tensors"
            raise NepaError(f"{index} names the file {name}, which is missing", hint)
        here = read_tensors(file)
        lacking = [tensor for tensor, place in places.items() if place == name and tensor not in here]
        if lacking:
            hint = "the files belong to different models; copy all of them again"
            raise NepaError(f"{file} lacks the tensor `{lacking[0]}`, which {index.name} says is in it", hint)
        tensors.update(here)
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, which lies beside the index."""
    try:
        places: Any = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        for tensor, file in places.items():
            if Path(file).name != file:
                raise ValueError(f"the file of `{tensor}` is {file!r}, expected the name of a file beside the index")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise NepaError(f"{index} is not an index of weights: {e}", DAMAGED) from None
    return places
