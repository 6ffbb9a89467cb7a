"""Writes operators.inc: every operator that libtorch_cuda.so registers under the CUDA key, and whether its wrapper
checks that all tensors are on one device (the others leave that to TensorIterator, which takes a CPU tensor of no
dimensions for a number).

    python3 make_operators.py operators.inc

Needs an installed PyTorch with CUDA, of the version that nepa uses; no GPU. What it registers is asked of the library
itself; what its wrappers check is in native_functions.yaml, which the package `torchgen` brings along.
"""

import sys
from pathlib import Path

import torch
import torchgen
from torchgen.gen import parse_native_yaml
from torchgen.model import DeviceCheckType

if not torch.backends.cuda.is_built():
    sys.exit(f"expected a PyTorch built with CUDA, found {torch.__version__}")

registered = torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")
names = sorted(name.removeprefix("aten::") for name in registered if name.startswith("aten::"))

native = Path(torchgen.__file__).parent / "packaged/ATen/native"
parsed = parse_native_yaml(str(native / "native_functions.yaml"), str(native / "tags.yaml"))
unchecked = {str(f.func.name) for f in parsed.native_functions if f.device_check == DeviceCheckType.NoCheck}

version = torch.__version__.split("+")[0]
lines = [f"// The {len(names)} operators of CUDA in libtorch {version}: name, whether the wrapper checks devices.\n"]
lines += [f'{{"{name}", {"false" if name in unchecked else "true"}}},\n' for name in names]
Path(sys.argv[1]).write_text("".join(lines))
