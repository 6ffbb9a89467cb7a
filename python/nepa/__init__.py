"""NEPA vision transformers: the command `nepa`, which this package installs, trains and evaluates them.

`python -m nepa` is the same command.
"""

from nepa._build import __version__

__all__ = ["__version__"]
