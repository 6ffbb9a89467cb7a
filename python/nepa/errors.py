"""Errors that say what to do next, and Python packages that not everybody has."""

import difflib
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


class NepaError(Exception):
    """What went wrong, and as `hint` what to do about it."""

    def __init__(self, message: str, hint: str):
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}"


def visible(text: str) -> str:
    """The text with what would steer a terminal written as an escape: names and keys may be a stranger's."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def need(package: str, purpose: str) -> ModuleType:
    """Imports a package that only some functions need. `purpose` is what needs it, as the beginning of a sentence."""
    try:
        return importlib.import_module(package)
    except ImportError as e:
        name = "pillow" if package == "PIL" else package.split(".")[0]
        missing = f"{purpose} needs the Python package {name}, which cannot be imported ({e})"
        raise NepaError(missing, f"{sys.executable} -m pip install {name}") from None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """'; did you mean `x`?' or nothing."""
    near = difflib.get_close_matches(name, list(candidates), 1)
    return f"; did you mean `{near[0]}`?" if near else ""


def ensure_exists(path: Path, hint: str) -> None:
    """That there is a file or folder; if not, the error names the nearest name beside it."""
    if path.exists():
        return
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    raise NepaError(f"{path} does not exist{did_you_mean(path.name, beside)}", hint)
