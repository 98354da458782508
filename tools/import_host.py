"""Makes a real ComfyUI importable in this process, for tests and benchmarks."""

import os
import sys
from pathlib import Path

from .places import COMFYUI


def comfyui() -> Path:
    """The ComfyUI that `dev.py` got, or the one that INBETWEEN_COMFYUI names.

    Raises FileNotFoundError when there is none.
    """
    folder = Path(os.environ.get("INBETWEEN_COMFYUI", COMFYUI)).resolve()
    if not (folder / "comfy").is_dir():
        raise FileNotFoundError(
            f"No ComfyUI at {folder}. Run this through `python dev.py`, which gets one, or set INBETWEEN_COMFYUI to "
            "yours."
        )
    return folder


def import_host() -> None:
    """Makes `comfy`, `nodes`, `folder_paths` … importable; on the CPU where torch sees no GPU.

    The host comes first on the path, since both it and this pack have a module called `nodes`.
    Raises FileNotFoundError when there is no ComfyUI.
    """
    import torch

    folder = str(comfyui())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    arguments, sys.argv = sys.argv, sys.argv[:1]
    from comfy.cli_args import args

    sys.argv = arguments
    args.cpu = not torch.cuda.is_available()
