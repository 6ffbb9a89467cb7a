"""Finds the weights that a path stands for, as `checkpoint::open` does in a recipe: those of a model folder, of a
training checkpoint, or of a run's newest checkpoint, raw or averaged."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from nepa.errors import NepaError, did_you_mean, ensure_exists
from nepa.run import RUN_FILE, Run

# What the weights of a model folder are called, the first that is there.
FILES = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]
AVERAGE = "pytorch_model_ema.bin"
KINDS = {"raw": "model_raw", "ema": "model_ema"}


def find_weights(path: Path, weights: str | None) -> Path:
    """The file with the `weights`, "raw", "ema" (averaged) or None for the only ones, that a path stands for."""
    if weights not in [None, *KINDS]:
        hint = 'expected "raw" (as trained) or "ema" (their average)'
        raise NepaError(f'unknown weights "{weights}"{did_you_mean(str(weights), KINDS)}', hint)
    ensure_exists(path, "give a model folder, a checkpoint or a run")
    there = _kinds(path)
    if weights is None and len(there) > 1:
        raise NepaError(f"{path} holds raw and averaged weights", 'say which: weights="raw" or weights="ema"')
    if weights is None:
        [file] = there.values()
    elif weights in there:
        file = there[weights]
    # What was asked for, where nothing says otherwise; a folder that does not say is taken to hold raw weights.
    elif None in there and (weights == "raw" or path.is_file()):
        file = there[None]
    else:
        [kind] = there
        hint = f'ask for weights="{kind or "raw"}", or give the path of the others'
        raise NepaError(f'{path} holds {kind or "raw"} weights, but "{weights}" were asked for', hint)
    _verify(file)
    return file


def _kinds(path: Path) -> dict[str | None, Path]:
    """The files of weights that a path stands for, by their kind, if it is known."""
    if (path / RUN_FILE).is_file():
        path = _newest_checkpoint(path)
    if (path / "state.json").is_file():
        found: dict[str | None, Path] = {kind: file for kind, name in KINDS.items() if (file := _file_in(path / name))}
        if not found:
            raise NepaError(f"{path} holds no weights", f"expected {' or '.join(KINDS.values())} in it")
        return found
    file = _file_in(path) if path.is_dir() else path
    if file is None:
        raise NepaError(f"{path} is not a model folder", f"expected config.json and {FILES[0]} in it")
    kind = _declared(file) or ("ema" if file.name == AVERAGE else None)
    average = path / AVERAGE
    # In a folder of the reference, the average lies beside the weights.
    return {"raw": file, "ema": average} if kind is None and average.is_file() else {kind: file}


def _file_in(folder: Path) -> Path | None:
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def _newest_checkpoint(path: Path) -> Path:
    checkpoints = Run(path).checkpoints
    loops = {checkpoint.label: checkpoint for checkpoint in checkpoints}
    if len(loops) == 1:
        return checkpoints[-1].path
    if loops:
        newest = ", ".join(str(checkpoint.path) for checkpoint in loops.values())
        raise NepaError(f"the run {path} has checkpoints of {len(loops)} training loops", f"name one: {newest}")
    models = [str(folder) for folder in sorted(path.iterdir()) if _file_in(folder)]
    hint = f"give a model folder, such as {models[0]}" if models else "give a model folder, or a run with a checkpoint"
    raise NepaError(f"the run {path} has no checkpoint", hint)


def _declared(file: Path) -> str | None:
    """Which weights the folder of a file says it holds."""
    try:
        about: Any = json.loads(file.with_name("provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    weights = about.get("weights") if isinstance(about, dict) else None
    return weights if weights in KINDS else None


def _verify(file: Path) -> None:
    """Compares the files of a checkpoint's model folder with the checkpoint's manifest."""
    folder = file.parent
    manifest = folder.parent / "manifest.json"
    if not manifest.is_file() or not (folder.parent / "state.json").is_file():
        return
    again = "it was damaged; take an older checkpoint"
    try:
        sums: dict[str, dict[str, int]] = json.loads(manifest.read_text(encoding="utf-8").splitlines()[0])
        own = {name: sums[name]["crc32"] for name in sums if name.startswith(f"{folder.name}/")}
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise NepaError(f"cannot read {manifest}: {e}", again) from None
    for name, crc32 in own.items():
        path = folder.parent / name
        if not path.is_file() or _crc32(path) != crc32:
            raise NepaError(f"{path} is damaged: its checksum is not that of {manifest.name}", again)


def _crc32(path: Path) -> int:
    crc32 = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            crc32 = zlib.crc32(part, crc32)
    return crc32
