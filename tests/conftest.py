"""Makes the pack and a real ComfyUI importable: the pack as `generative_inbetweening`, the host as ComfyUI itself."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
HOST = Path(os.environ.get("INBETWEEN_COMFYUI", ROOT / ".comfyui")).resolve()
os.environ.setdefault("OMP_NUM_THREADS", "2")


def _import_host() -> None:
    # First on the path: both the host and this repository have a module called `nodes`.
    sys.path.insert(0, str(HOST))
    arguments, sys.argv = sys.argv, sys.argv[:1]
    from comfy.cli_args import args
    sys.argv = arguments
    args.cpu = not torch.cuda.is_available()


def _import_pack() -> None:
    spec = importlib.util.spec_from_file_location("generative_inbetweening", ROOT / "__init__.py",
                                                  submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


if not (HOST / "comfy").is_dir():
    raise pytest.UsageError(f"No ComfyUI at {HOST}. Run the tests with `python dev.py test`, which gets one, or set "
                            "INBETWEEN_COMFYUI to yours.")
_import_host()
_import_pack()
