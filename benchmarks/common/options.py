"""Command-line options that several benchmarks share."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from ...common.atomic_write import write_json
from ...common.errors import WeightsError
from ...demo.world.world import SIZE
from ...tools.paths import BENCHMARK_OUTPUT, DEMO
from .packages import PackageMissing, check_installed


class OptionError(ValueError):
    """An option that cannot be used; the message names it."""


def benchmark_parser(name: str, description: str) -> argparse.ArgumentParser:
    """`--out` alone."""
    parser = argparse.ArgumentParser(
        prog=name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = f"{BENCHMARK_OUTPUT.name}/{name} in the checkout"
    parser.add_argument(
        "--out", type=Path, default=BENCHMARK_OUTPUT / name, help=f"folder for the results (default: {default})"
    )
    return parser


def exit_status(name: str, run: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> int:
    """Runs a benchmark of videos: 0 done, 1 an option, a file or a package that stops it, said in one sentence."""
    try:
        check_installed("matplotlib", *() if options.without_cvvdp else ("pycvvdp",))
        run(options)
    except (OptionError, PackageMissing, WeightsError) as error:
        print(f"{name}: {_with_option(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped; the same command goes on.", file=sys.stderr)
        return 130
    return 0


def _with_option(message: str) -> str:
    """The nodes name their input: here it is an option."""
    for node_input, option in (("model_name: ", "--checkpoint: "), ("backward_motion: ", "--backward-motion: ")):
        if message.startswith(node_input):
            return option + message.removeprefix(node_input)
    return message


def add_model_and_clips(parser: argparse.ArgumentParser, clips: int, frames: int, first_seed: int) -> None:
    """The model, and how many clips of the small world of which size."""
    add = parser.add_argument
    add("--checkpoint", type=Path, default=DEMO / "demo_svd.safetensors", help="SVD model, file or diffusers folder")
    motion = DEMO / "demo_backward_motion.safetensors"
    add("--backward-motion", type=Path, default=motion, help="its backward-motion file")
    add("--clips", type=int, default=clips, help=f"held-out clips of the small world (default: {clips})")
    add("--frames", type=int, default=frames, help=f"frames of a clip (default: {frames})")
    add("--size", type=int, default=SIZE, help=f"side of the pictures in pixels (default: {SIZE})")
    add("--first-seed", type=int, default=first_seed, help="seed of the first clip")


def add_methods(parser: argparse.ArgumentParser, names: list[str]) -> None:
    """Which methods, and how their videos are made and measured."""
    cores = 1 if torch.cuda.is_available() else max(1, min(os.cpu_count() or 1, 8))
    add = parser.add_argument
    add("--methods", type=lambda text: text.split(","), help=f"some of {','.join(names)} (default: all)")
    add_without_cvvdp(parser)
    about = "multiply matrices in bfloat16: faster where the processor can, results differ a little"
    add("--bf16", action="store_true", help=about)
    add(
        "--workers",
        type=int,
        default=cores,
        help="single-threaded processes, each with its share of the clips (default: one a core, 1 with a GPU)",
    )


def add_without_cvvdp(parser: argparse.ArgumentParser) -> None:
    """Whether the slowest measure is left out."""
    about = "leave ColorVideoVDP out, which takes most of the measuring"
    parser.add_argument("--without-cvvdp", action="store_true", help=about)


def chosen_methods(chosen: list[str] | None, known: list[str], hint: str = "") -> list[str]:
    """Those of `known` that `--methods` names; all without it. Raises OptionError."""
    unknown = [name for name in chosen or () if name not in known]
    if unknown:
        raise OptionError(f"--methods: expected some of {', '.join(known)}; found {', '.join(unknown)}.{hint}")
    return [name for name in known if not chosen or name in chosen]


def keep_settings(out: Path, settings: dict, files: dict[str, Path]) -> None:
    """Writes down what the results in `--out` are made with, and refuses a folder of other settings or files.

    `files`: {option's name: model file}. Raises OptionError, also for a file that there is not.
    """
    for name, file in files.items():
        if not file.exists():
            raise OptionError(f"--{name.replace('_', '-')}: expected a model file, found nothing at {file}.")
    path = out / "settings.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, value in {**settings, **{name: _digest(file) for name, file in files.items()}}.items():
        if kept.setdefault(name, value) != value:
            raise OptionError(f"--out: {out} holds results of another {name}. Choose another folder.")
    write_json(path, kept)


def _digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
