"""Embeddings of images, as `nepa embed` writes them: parquet, safetensors or npy, in one file or in several."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nepa.errors import NepaError, ensure_exists, need
from nepa.tensor_file import read_safetensors

if TYPE_CHECKING:
    import numpy

DAMAGED = "it was damaged; nepa embed writes it anew"


class Embeddings(NamedTuple):
    """Features of N images, and what is known about the images."""

    features: numpy.ndarray
    """[N, D] float32."""
    labels: numpy.ndarray | None
    """[N] int64, -1 for an image without a label; None if no image has one."""
    names: list[str] | None
    """N names."""


def embeddings(path: str | os.PathLike[str]) -> Embeddings:
    """Reads the features of images that `nepa embed` has written: .parquet, .safetensors, or .npy with the names in a
    file beside it. `path` is the name that they were given, also where they lie in several files."""
    path = Path(path)
    reader = READERS.get(path.suffix)
    if reader is None:
        raise NepaError(f"{path} is not a file of embeddings", f"expected a name that ends in {' or '.join(READERS)}")
    numpy = need("numpy", "nepa.embeddings")
    files = _files(path)
    parts = [_checked(file, reader(file)) for file in files]
    # Labels and names of some parts alone would be taken for those of other images.
    bare = [file for file, part in zip(files, parts, strict=True) if part.names is None]
    if 0 < len(bare) < len(files):
        missing = ", ".join(f"{file.name}.names.csv" for file in bare)
        raise NepaError(f"{path}: {missing} missing, which the other files have", "copy it too: it names the images")
    features = numpy.concatenate([part.features for part in parts]).astype(numpy.float32)
    labels = [part.labels for part in parts if part.labels is not None]
    all_labels = numpy.concatenate(labels).astype(numpy.int64) if labels else None
    names = [part.names for part in parts if part.names is not None]
    return Embeddings(
        features,
        None if all_labels is None or (all_labels < 0).all() else all_labels,
        [name for of_part in names for name in of_part] if names else None,
    )


def _files(path: Path) -> list[Path]:
    """The file of this name, or those that the description beside it lists."""
    description = path.with_name(f"{path.name}.json")
    if path.exists() or not description.is_file():
        ensure_exists(path, "give a file that nepa embed has written")
        return [path]
    try:
        names = json.loads(description.read_text(encoding="utf-8"))["files"]
        files = [path.with_name(Path(name).name) for name in names]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise NepaError(f"cannot read {description}: {e!r}", DAMAGED) from None
    if not files:
        raise NepaError(f"{description} lists no files", DAMAGED)
    for file in files:
        ensure_exists(file, "the same nepa embed goes on with the files that are missing")
    return files


def _checked(file: Path, part: Embeddings) -> Embeddings:
    if part.features.ndim != 2:
        raise NepaError(f"{file}: expected features [N, D], found {list(part.features.shape)}", DAMAGED)
    for what, found in [("labels", part.labels), ("names", part.names)]:
        if found is not None and len(found) != len(part.features):
            raise NepaError(f"{file} has {len(part.features)} rows of features, but {len(found)} {what}", DAMAGED)
    return part


def _parquet(path: Path) -> Embeddings:
    parquet = need("pyarrow.parquet", "reading a parquet file")
    try:
        table = parquet.read_table(path, columns=["name", "label", "features"])
        features = table["features"].combine_chunks()
        values = features.flatten().to_numpy(zero_copy_only=False).reshape(-1, features.type.list_size)
        return Embeddings(values, table["label"].fill_null(-1).to_numpy(), table["name"].to_pylist())
    # pyarrow's errors are some of these.
    except (OSError, LookupError, TypeError, ValueError, AttributeError, NotImplementedError) as e:
        hint = "nepa embed writes the columns name, label, class_name and features, lists of one size"
        raise NepaError(f"cannot read {path} as embeddings: {str(e).splitlines()[0]}", hint) from None


def _safetensors(path: Path) -> Embeddings:
    file = read_safetensors(path)
    try:
        return Embeddings(file.array("features"), file.array("labels"), json.loads(file.metadata["names"]))
    except (LookupError, TypeError, ValueError) as e:
        hint = "nepa embed writes the tensors features and labels, and the names as metadata"
        raise NepaError(f"cannot read {path} as embeddings: {e!r}", hint) from None


def _npy(path: Path) -> Embeddings:
    import numpy

    try:
        features = numpy.load(path, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise NepaError(f"cannot read {path}: {e}", DAMAGED) from None
    beside = path.with_name(f"{path.name}.names.csv")
    if not beside.is_file():
        return Embeddings(features, None, None)
    try:
        with open(beside, encoding="utf-8", newline="") as file:
            rows = [(row["name"], int(row["label"])) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError) as e:
        raise NepaError(f"cannot read {beside}: expected the columns name and label: {e!r}", DAMAGED) from None
    return Embeddings(features, numpy.array([label for _, label in rows], numpy.int64), [name for name, _ in rows])


READERS = {".parquet": _parquet, ".safetensors": _safetensors, ".npy": _npy}
