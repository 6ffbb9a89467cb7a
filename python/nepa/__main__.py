"""Starts the program with the libtorch of this Python environment, which must be the one that it was built for."""

import importlib.util
import os
import re
import sys
from pathlib import Path


def stop(error: str, hint: str):
    sys.exit(f"error: {error}\nhint: {hint}")


try:
    from nepa._build import TORCH
except ModuleNotFoundError:
    stop("this is the source of nepa, without the program", "cargo xtask wheel makes a wheel that has it")


def torch_folder() -> Path:
    """The folder of PyTorch, which is not imported: that takes seconds."""
    install = f"{sys.executable} -m pip install torch=={TORCH}"
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        stop(f"nepa needs PyTorch {TORCH}, which this Python environment does not have", install)
    folder = Path(spec.origin).parent
    try:
        text = (folder / "version.py").read_text()
    except OSError as e:
        stop(f"PyTorch in {folder} is damaged: {e}", f"{install} --force-reinstall")
    found = re.search(r"__version__ = ['\"]([^'\"]+)", text)
    version = found.group(1) if found else "of an unknown version"
    # "2.11.0+cpu" and "2.11.0+cu130" are builds of one version.
    if version.split("+")[0] != TORCH:
        stop(f"nepa was built for PyTorch {TORCH}, found {version} in {folder}", install)
    return folder


def main():
    here = Path(__file__).resolve().parent
    torch = torch_folder().resolve()
    environment = dict(os.environ)
    # The program looks beside its own package; this environment may have PyTorch from another one.
    if torch != here.parent / "torch":
        known = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = str(torch / "lib") + (f":{known}" if known else "")
    # Its packages are those that `nepa sync` looks for.
    environment.setdefault("NEPA_PYTHON", sys.executable)
    binary = here / "bin" / "nepa"
    try:
        os.execve(binary, ["nepa", *sys.argv[1:]], environment)
    except OSError as e:
        stop(f"cannot start {binary}: {e}", "pip install --force-reinstall the wheel of nepa")


if __name__ == "__main__":
    main()
