"""Imports a real ComfyUI and this pack into a benchmark's own process.

The host is first on the path, since both it and this repository have a module called `nodes`; the pack is imported as
`generative_inbetweening`. tests/conftest.py uses the same functions.
"""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def comfyui() -> Path:
    """The ComfyUI that `dev.py` got, or the one that INBETWEEN_COMFYUI names.

    Raises FileNotFoundError when there is none.
    """
    folder = Path(os.environ.get("INBETWEEN_COMFYUI", ROOT / ".comfyui")).resolve()
    if not (folder / "comfy").is_dir():
        raise FileNotFoundError(
            f"No ComfyUI at {folder}. Run this through `python dev.py`, which gets one, or set "
            "INBETWEEN_COMFYUI to yours."
        )
    return folder


def import_host(folder: Path) -> None:
    """Makes `comfy`, `nodes`, `folder_paths` … importable; on the CPU where torch sees no GPU."""
    import torch

    sys.path.insert(0, str(folder))
    arguments, sys.argv = sys.argv, sys.argv[:1]
    from comfy.cli_args import args

    sys.argv = arguments
    args.cpu = not torch.cuda.is_available()


def import_pack() -> None:
    """Makes `generative_inbetweening` importable."""
    spec = importlib.util.spec_from_file_location(
        "generative_inbetweening", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def start() -> None:
    """Both of the above, for a benchmark that is run as a file.

    Python has put the file's folder on the path then, where names such as metrics or peers would hide others'.
    """
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    import_host(comfyui())
    import_pack()
