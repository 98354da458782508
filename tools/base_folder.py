"""ComfyUI's --base-directory: the pack, the demo's files and everything that the server writes.

With it neither ComfyUI's own folder nor anything else outside this checkout is written to.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from .host import Host
from .places import BASE, CHECKOUT, DEMO, MODEL_PATHS, PACK_NAME

NOT_COPIED = (".git", ".venv", ".comfyui", ".dev", "demo_output", "__pycache__", "node_modules")


def prepare_base(host: Host) -> None:
    """Make the base folder: the pack in custom_nodes, the model folders, the demo's keyframes in input."""
    for name in ("custom_nodes", "models", "input", "output", "user/default"):
        (BASE / name).mkdir(parents=True, exist_ok=True)
    link_pack(BASE / "custom_nodes" / PACK_NAME)
    write_model_paths(host)
    for picture in sorted(DEMO.glob("*.png")):
        copy_whole(picture, BASE / "input" / picture.name)
    settings = BASE / "user" / "default" / "comfy.settings.json"
    if not settings.exists():
        # Otherwise the first visit covers the workflow with the template browser.
        settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}), encoding="utf-8")


def link_pack(link: Path) -> None:
    """Let custom_nodes hold this checkout: a link, a junction on Windows, a copy where neither is allowed."""
    if link.exists() and os.path.samefile(link, CHECKOUT):
        return
    remove(link)
    try:
        os.symlink(CHECKOUT, link, target_is_directory=True)
    except OSError:
        if not make_junction(link):
            shutil.copytree(CHECKOUT, link, ignore=shutil.ignore_patterns(*NOT_COPIED))


def make_junction(link: Path) -> bool:
    """Windows' link between folders, which needs no privilege; False where there is none."""
    try:
        # Not mklink: it is cmd's own, and cmd reads & and % in a path as its own signs.
        import _winapi

        _winapi.CreateJunction(str(CHECKOUT), str(link))
    except (ImportError, AttributeError, OSError):
        return False
    return True


def remove(path: Path) -> None:
    """Remove a link, a junction or a copied folder, never what a link points to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists() or os.path.lexists(path):
        try:
            # A junction is removed like an empty folder; a copy is not empty.
            os.rmdir(path)
        except OSError:
            shutil.rmtree(path)


def write_model_paths(host: Host) -> None:
    """Show ComfyUI the demo's weights where they lie, and the models of a ComfyUI of the user's."""
    # The first folder of a kind is the one that nodes write to: what a user converts does not belong into demo/.
    sections = {
        "inbetween_converted": {"backward_motion": BASE / "models" / "backward_motion"},
        "inbetween_demo": {"checkpoints": DEMO, "backward_motion": DEMO},
    }
    models = host.folder / "models"
    if not host.is_ours and models.is_dir():
        sections["existing_comfyui"] = {folder.name: folder for folder in sorted(models.iterdir()) if folder.is_dir()}
    text = ""
    for section, folders in sections.items():
        # A JSON string is a YAML string, whatever characters the path holds.
        text += section + ":\n" + "".join(f"    {name}: {json.dumps(str(path))}\n" for name, path in folders.items())
    write_whole(MODEL_PATHS, text)


def write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file; the target is never seen half written."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, partial)
    os.replace(partial, target)
