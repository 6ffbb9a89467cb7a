"""A model as one program from images to its output, in the formats that others run, and its verification there."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import nepa
from nepa.errors import NepaError, need
from nepa.model import VitNepa
from nepa.preprocessor import Normalization

Run = Callable[[Tensor], Tensor]
DTYPES = {"float32": torch.float32, "float16": torch.float16}
# The largest difference from the model in float32, as a part of the largest magnitude, or of 1.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2}
OPSET = 18
# No ONNX file can be larger: protobuf has no longer messages.
MOST_BYTES = (2 << 30) - (1 << 20)


class Program(nn.Module):
    """Images [B, C, S, S] -> the model's output, float32. The images are float32 and normalised, or uint8 where it is to
    `preprocess` them; what lies between them and the output is computed in `dtype`, whose place the model is given."""

    def __init__(self, model: VitNepa, dtype: str, normalization: Normalization, preprocess: bool):
        super().__init__()
        self.fused_attention = True
        self.dtype = DTYPES[dtype]
        self.tolerance = TOLERANCES[dtype]
        self.model = model.to(self.dtype)
        self.normalization, self.preprocess = normalization, preprocess

    @property
    def output_name(self) -> str:
        return "logits" if self.model.config.num_labels > 0 else "last_hidden_state"

    def forward(self, images: Tensor) -> Tensor:
        if self.preprocess:
            images = self.normalization(images)
        output = self.model.encode(images.to(self.dtype), attentions=not self.fused_attention)
        return (output.last_hidden_state if output.logits is None else output.logits).to(torch.float32)

    def random_images(self, count: int) -> Tensor:
        """Images such as it takes, the same ones in each call with the same count."""
        config = self.model.config
        shape = [count, config.num_channels, config.image_size, config.image_size]
        generator = torch.Generator().manual_seed(count)
        if self.preprocess:
            return torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return torch.randn(shape, generator=generator)

    def facts(self) -> dict[str, str]:
        """What a user of the exported file may want to know, as its metadata."""
        config, normalization = self.model.config, self.normalization
        facts = {"nepa_version": nepa.__version__, "image_size": str(config.image_size)}
        # Of the images before they are normalised, by whomever.
        facts["rescale_factor"] = json.dumps(normalization.factor)
        facts["mean"], facts["std"] = json.dumps(normalization.mean), json.dumps(normalization.std)
        if config.class_names:
            facts["class_names"] = json.dumps(config.class_names, ensure_ascii=False)
        return facts


def write(program: Program, path: Path, to: str, expected: list[tuple[Tensor, Tensor]]) -> float | None:
    """Writes a program as an "onnx" or "torch" file, and runs it on batches of images, each with the output that is
    expected. Returns the largest difference, None if nothing is there to run the file; too large a one is an error."""
    write_file, load, package = {
        "onnx": (write_onnx, load_onnx, "onnxruntime"),
        "torch": (write_torch, load_torch, "torch"),
    }[to]
    try:
        write_file(program, path)
        difference = largest_difference(load(path), expected) if importlib.util.find_spec(package) else None
    except (NepaError, OSError):
        raise
    except Exception as e:  # An exporter raises whatever it meets.
        words = str(e).strip().splitlines() or ["no message"]
        hint = f"this is PyTorch {torch.__version__}; exporting is known to work with 2.11"
        raise NepaError(f"the model cannot be exported: {type(e).__name__}: {words[0]}", hint) from e
    if difference is not None and not difference <= program.tolerance:
        found = f"the exported program differs from the model by {difference:.1e}, more than {program.tolerance:.0e}"
        float16 = program.dtype == torch.float16
        raise NepaError(found, "export it in float32" if float16 else "please report it, with the model's config.json")
    return difference


def write_onnx(program: Program, path: Path) -> None:
    """Writes an ONNX file with the input `images` and the output `logits` or `last_hidden_state`, of any batch size."""
    size = sum(tensor.nbytes for tensor in program.state_dict().values())
    if size > MOST_BYTES:
        hint = "export it in float16, or to torch, whose files may be larger"
        raise NepaError(f"the weights take {size / 1e9:.1f} GB, and an ONNX file holds at most 2.1 GB", hint)
    output = program.output_name
    # The exporter makes float32 of a fused one in float16.
    program.fused_attention = False
    with warnings.catch_warnings(), torch.no_grad():
        # That this exporter, which needs no further package, will be replaced; and that it fixes the image size.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            program,
            (program.random_images(2),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=[output],
            dynamic_axes={"images": {0: "batch"}, output: {0: "batch"}},
        )
    with open(path, "ab") as file:
        for key, value in program.facts().items():
            # An entry of ModelProto.metadata_props (field 14): protobuf appends what comes later.
            file.write(_field(14, _field(1, key.encode()) + _field(2, value.encode())))


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes in a protobuf message."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def write_torch(program: Program, path: Path) -> None:
    """Writes an exported program: torch.export.load(path).module() takes batches of any size."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        shapes = {"images": {0: torch.export.Dim("batch")}}
        exported = torch.export.export(program, (program.random_images(2),), dynamic_shapes=shapes)
        torch.export.save(exported, path, extra_files={"nepa.json": json.dumps(program.facts(), ensure_ascii=False)})


def load_onnx(path: Path) -> Run:
    """The function that an ONNX file computes, from tensor to tensor, in ONNX Runtime on the CPU."""
    onnxruntime = need("onnxruntime", "running an ONNX file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def load_torch(path: Path) -> Run:
    """The function that an exported program computes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.load(path).module()


def largest_difference(run: Run, expected: list[tuple[Tensor, Tensor]]) -> float:
    """The largest difference of an exported program from the model's outputs for batches of images, as a part of their
    largest magnitude if that is above 1. NaN if there is one."""
    worst = []
    with torch.no_grad():
        for images, output in expected:
            worst.append((run(images) - output).abs().max() / output.abs().max().clamp(min=1))
    return torch.stack(worst).max().item()


def fsync(path: Path) -> None:
    """Waits until a file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
