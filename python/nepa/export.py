"""Exports a model for programs that know nothing of nepa: ONNX, or PyTorch's exported program.

    python -m nepa.export MODEL DEST.onnx
    python -m nepa.export MODEL DEST.pt2 --dtype float16

The file gets its name only once it has been compared with the model on random images.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from nepa.errors import NepaError, did_you_mean, need, visible

# How the names of files end, by format.
FORMATS = {"onnx": ".onnx", "torch": ".pt2"}


class Exported(NamedTuple):
    """A file that has been written."""

    path: Path
    input: str
    """Name, shape and dtype of the images."""
    output: str
    """Name, shape and dtype of the output."""
    difference: float | None
    """The largest difference from the model in float32 on random images, as a part of the output's largest magnitude if
    that is above 1; None if nothing was there to run the file."""


def export(
    path: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    to: str | None = None,
    part: str | None = None,
    weights: str | None = None,
    dtype: str = "float32",
    preprocess: bool = False,
) -> Exported:
    """Exports a model, for batches of any size.

    `path`, `part` and `weights` are what `nepa.load` takes. `dest` is the file; `to` is "onnx" or "torch", or None: by
    the ending of its name (.onnx, .pt2). `dtype`, "float32" or "float16", is that of the weights and the computation;
    images and output are float32. With `preprocess`, the images are uint8, and the program scales and normalises them
    as the model's folder says; it must be a model of pictures of 8 bits. Raises NepaError, and leaves no file, if the
    output of the file is not the model's.
    """
    dest = Path(dest)
    to = _format(dest, to)
    need("torch", "the export")
    from nepa import program as programs
    from nepa.model import load
    from nepa.preprocessor import read_normalization
    from nepa.weights import find_weights

    if dtype not in programs.DTYPES:
        near = did_you_mean(dtype, programs.DTYPES)
        raise NepaError(f'unknown dtype "{dtype}"{near}', f"expected {' or '.join(programs.DTYPES)}")
    model = load(path, weights, part)
    folder = find_weights(Path(path), weights).parent
    normalization = read_normalization(folder)
    if preprocess and not normalization.of_pictures:
        hint = "leave --preprocess out, and normalise images as the program's metadata say"
        raise NepaError(f"{folder}: the model was not trained on pictures of 8 bits, but on images as they are", hint)
    reference = programs.Program(model, "float32", normalization, preprocess).eval()
    with programs.torch.no_grad():
        expected = [(images, reference(images)) for images in map(reference.random_images, [1, 3])]
    program = programs.Program(model, dtype, normalization, preprocess).eval()
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=dest.parent) as folder:
        file = Path(folder) / dest.name
        difference = programs.write(program, file, to, expected)
        programs.fsync(file)
        file.replace(dest)
    images, output = expected[0]
    shapes = [f"[batch, {', '.join(map(str, tensor.shape[1:]))}]" for tensor in (images, output)]
    kind = "uint8" if preprocess else "float32"
    return Exported(dest, f"images {shapes[0]} {kind}", f"{program.output_name} {shapes[1]} float32", difference)


def _format(dest: Path, to: str | None) -> str:
    """The format of a file, whose name must tell it."""
    endings = {ending: name for name, ending in FORMATS.items()}
    if to is not None and to not in FORMATS:
        raise NepaError(f'unknown format "{to}"{did_you_mean(to, FORMATS)}', f"expected {' or '.join(FORMATS)}")
    named = endings.get(dest.suffix)
    if named is None or to not in [None, named]:
        expected = FORMATS[to] if to else " or ".join(endings)
        raise NepaError(f"{dest}: expected a name that ends in {expected}", "the ending says what the file is")
    if dest.is_dir():
        raise NepaError(f"{dest} is a folder", "give the name of a file")
    if not dest.parent.is_dir():
        raise NepaError(f"{dest.parent} is not a folder", "make it first, or choose another place")
    return named


class _Parser(argparse.ArgumentParser):
    """Its errors are those of nepa."""

    def error(self, message: str):
        raise NepaError(message, f"{self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m nepa.export", description="Exports a model as ONNX or as a PyTorch program.")
    parser.add_argument("model", help="model folder, file of weights, checkpoint, or run (its newest checkpoint)")
    parser.add_argument("dest", help="the file: NAME.onnx or NAME.pt2")
    options = {
        "--to": ("onnx|torch", "format; by the ending of DEST unless given"),
        "--part": ("encoder|classifier", "what is exported; all of it unless given"),
        "--weights": ("raw|ema", "which weights, where there are both"),
        "--dtype": ("float32|float16", "of weights and computation; float32 unless given"),
    }
    for name, (values, about) in options.items():
        parser.add_argument(name, metavar=values, help=about, default="float32" if name == "--dtype" else None)
    parser.add_argument("--preprocess", action="store_true", help="take uint8 images: the program normalises them")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit code."""
    try:
        given = _parser().parse_args(arguments)
        done = export(given.model, given.dest, given.to, given.part, given.weights, given.dtype, given.preprocess)
    except NepaError as e:
        print(f"error: {visible(str(e))}", file=sys.stderr)
        return 1
    except OSError as e:
        text = f"error: cannot write {given.dest}: {e}\nhint: is there room, and may you write there?"
        print(visible(text), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"wrote {visible(str(done.path))} ({done.path.stat().st_size / 1e6:.1f} MB): {done.input} -> {done.output}")
    if done.difference is None:
        print("not verified: onnxruntime is not installed")
    else:
        print(f"verified on random images: the largest difference from the model is {done.difference:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
