"""NEPA vision transformers: the command `nepa`, which this package installs, trains and evaluates them; this module
reads what it has made.

    nepa.Run(path), nepa.runs(folder)    runs: parameters, results, metrics, checkpoints
    nepa.load(path)                      a model as a torch.nn.Module
    nepa.transform(path)                 how a picture becomes the input of a model
    nepa.embeddings(path)                what `nepa embed` has written
    nepa.export                          models as ONNX and torch.export files; python -m nepa.export

`python -m nepa` is the command itself. PyTorch is imported once a function needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from nepa.errors import need

try:
    from nepa._build import __version__
except ModuleNotFoundError:  # A clone: only the wheel knows its build.
    __version__ = "0+source"

if TYPE_CHECKING:
    from nepa.embedding import Embeddings, embeddings
    from nepa.errors import NepaError
    from nepa.model import VitNepa, load
    from nepa.preprocessor import Transform, transform
    from nepa.run import Checkpoint, Run, runs

# The modules that hold what this one offers.
_PLACES = {
    "Checkpoint": "run",
    "Embeddings": "embedding",
    "NepaError": "errors",
    "Run": "run",
    "Transform": "preprocessor",
    "VitNepa": "model",
    "embeddings": "embedding",
    "load": "model",
    "runs": "run",
    "transform": "preprocessor",
}

__all__ = [
    "Checkpoint",
    "Embeddings",
    "NepaError",
    "Run",
    "Transform",
    "VitNepa",
    "__version__",
    "embeddings",
    "load",
    "runs",
    "transform",
]


def __getattr__(name: str):
    if name in _PLACES:
        if _PLACES[name] == "model":
            need("torch", f"nepa.{name}")
        return getattr(import_module(f"nepa.{_PLACES[name]}"), name)
    if name == "export":
        return import_module("nepa.export")
    raise AttributeError(f"module 'nepa' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "export"]
