"""Run directories: what a run has recorded about itself, what it has logged, and its checkpoints."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nepa.errors import NepaError, ensure_exists, need
from nepa.json_file import read_object

if TYPE_CHECKING:
    import pandas

RUN_FILE = "run.json"
# JSON has no such numbers; nepa writes them as these strings.
NOT_FINITE = {"NaN": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a training loop, which `nepa.load` takes as it takes a path."""

    path: Path
    label: str
    step: int

    def __fspath__(self) -> str:
        return str(self.path)


class Run:
    """A run directory, of a run that has ended or is still going on. `path` is the directory, `about` its run.json as a
    dict. Metrics and checkpoints are read anew with each call; for a newer `about`, open the run again."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        ensure_exists(self.path, "give the directory of a run, such as runs/NAME")
        if not (self.path / RUN_FILE).is_file():
            inside = [run.path for run in runs(self.path)] if self.path.is_dir() else []
            hint = f"it holds the runs {', '.join(map(str, inside[:3]))}" if inside else "give the directory of a run"
            raise NepaError(f"{self.path} is not a run: it has no {RUN_FILE}", hint)
        self.about: dict[str, Any] = _object(self.path / RUN_FILE)

    def __repr__(self) -> str:
        return f"nepa.Run({str(self.path)!r}, {self.state})"

    @property
    def state(self) -> str:
        """One of finished, failed, interrupted, running, or killed: never finished, and no process is running it."""
        recorded = str(self.about.get("state", "unknown"))
        return "killed" if recorded == "running" and _is_free(self.path / ".lock") else recorded

    @property
    def parameters(self) -> dict[str, Any]:
        """The values of the recipe's parameters."""
        return dict(self.about.get("params", {}))

    @property
    def result(self) -> dict[str, Any]:
        """What the recipe returned, if that was a map."""
        return _plain(self.about.get("result", {}))

    @property
    def recipe(self) -> str:
        """The text of the recipe, as it was run last."""
        return (self.path / "recipe.rhai").read_text(encoding="utf-8")

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints, loop by loop, each loop's in the order of their steps."""
        found = []
        for path in (self.path / "checkpoints").glob("*/step-*"):
            step = re.fullmatch(r"step-(\d+)", path.name)
            if step and path.is_dir():
                found.append(Checkpoint(path, path.parent.name, int(step[1])))
        return sorted(found, key=lambda checkpoint: (checkpoint.label, checkpoint.step))

    def lines(self, phase: str | None = None) -> list[dict[str, Any]]:
        """What was logged, a dict for each line of metrics.jsonl, in its order; of one phase, or of all."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        # What stands after the last newline is still being written.
        whole = path.read_bytes().split(b"\n")[:-1]
        lines = [_line(path, number, line) for number, line in enumerate(whole, 1) if line.strip()]
        phases = list(dict.fromkeys(str(line["phase"]) for line in lines if "phase" in line))
        if phase is not None and phase not in phases:
            known = f"it has logged {', '.join(phases)}" if phases else "it has logged no phases yet"
            raise NepaError(f"{self.path} has logged nothing of the phase `{phase}`", known)
        return [line for line in lines if phase is None or line.get("phase") == phase]

    def columns(self, phase: str | None = None) -> dict[str, list[Any]]:
        """What was logged, by name, with None where a line lacks a name."""
        lines = self.lines(phase)
        names = dict.fromkeys(name for line in lines for name in line)
        return {name: [line.get(name) for line in lines] for name in names}

    def metrics(self, phase: str | None = None) -> pandas.DataFrame:
        """What was logged as a pandas DataFrame, a row for each line, of one phase, or of all. `columns` and `lines`
        give the same without pandas."""
        pandas = need("pandas", "a DataFrame")
        return pandas.DataFrame(self.columns(phase))


def runs(folder: str | os.PathLike[str] = "runs") -> list[Run]:
    """All runs in a folder, such as `runs` or that of a sweep, and in the folders in it, the oldest first."""
    ensure_exists(Path(folder), "give a folder with run directories, such as runs or sweeps/NAME")
    found = []
    for here, names, files in os.walk(folder):
        if RUN_FILE in files:
            names.clear()
            found.append(Run(here))
        names[:] = [name for name in names if not name.startswith(".")]
    return sorted(found, key=lambda run: (str(run.about.get("started", "")), run.path))


def _object(path: Path) -> dict[str, Any]:
    return read_object(path, "it was damaged, or it is not what its name says")


def _line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as e:
        raise NepaError(f"{path}, line {number}, is not JSON: {e}", "the file was damaged; remove the line") from None
    if not isinstance(value, dict):
        raise NepaError(f"{path}, line {number}, is not a JSON object", "the file was damaged; remove the line")
    return _plain(value)


def _plain(value: Any) -> Any:
    """Plain data with the numbers that JSON lacks."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _is_free(lock: Path) -> bool:
    """Whether no process holds the lock of a run directory; False where that cannot be found out."""
    try:
        import fcntl

        with open(lock, "rb") as file:
            # A shared lock, let go of at once: it keeps no run from starting.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        return True
    except (ImportError, OSError):
        return False
