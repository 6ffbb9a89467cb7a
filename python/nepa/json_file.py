"""Files of JSON that hold an object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nepa.errors import NepaError


def read_object(path: Path, hint: str) -> dict[str, Any]:
    """The object in a file; raises NepaError with the hint if it cannot be read or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise NepaError(f"cannot read {path}: {e}", hint) from None
    if not isinstance(value, dict):
        raise NepaError(f"{path} is not a JSON object", hint)
    return value
