"""`python weights …`: conversions at a terminal, with ComfyUI's own Python, from any folder."""

import argparse
import logging
import sys
from pathlib import Path

from ..common.errors import WeightsError
from .convert import AT_A_TERMINAL, PRECISIONS, convert, refuse_existing
from .identify import describe
from .svd import read_folder, write_single_file


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status, 1 with one sentence on standard error for what cannot be done."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except WeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python weights", description="Weights for generative inbetweening.")
    commands = parser.add_subparsers(required=True)

    backward = commands.add_parser("backward-motion", help="make a backward-motion file from a fine-tuned UNet")
    backward.add_argument(
        "--base",
        type=Path,
        required=True,
        help="SVD model that was fine-tuned: diffusers folder, its unet folder, or checkpoint file",
    )
    backward.add_argument("--fine-tuned", type=Path, required=True, help="the fine-tuned model, same choices")
    backward.add_argument("--output", type=Path, required=True, help="backward-motion file to write (.safetensors)")
    backward.add_argument("--dtype", choices=PRECISIONS, default="fp16", help="precision of the file (default: fp16)")
    backward.add_argument("--frames", default="14", help="frames of the clips it was trained on (default: 14)")
    backward.add_argument("--source", help="where the fine-tuned model comes from (default: its name)")
    backward.add_argument("--license", default="unknown", help="licence of the fine-tuned model")
    backward.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    backward.add_argument(
        "--allow-other-base",
        action="store_true",
        help="convert also when the base is not the model that was fine-tuned",
    )
    backward.set_defaults(run=_backward_motion)

    checkpoint = commands.add_parser("checkpoint", help="make a single-file checkpoint from a diffusers folder")
    checkpoint.add_argument("folder", type=Path, help="diffusers folder of a Stable Video Diffusion model")
    checkpoint.add_argument("--output", type=Path, required=True, help="checkpoint file to write (.safetensors)")
    checkpoint.add_argument("--dtype", choices=PRECISIONS, default="fp16", help="precision of the file (default: fp16)")
    checkpoint.add_argument(
        "--metadata",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        type=_key_and_value,
        help="what else the file says about itself, such as license=… or trained=yes",
    )
    checkpoint.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    checkpoint.set_defaults(run=_checkpoint)

    inspect = commands.add_parser("inspect", help="say what a model's file or folder is")
    inspect.add_argument("path", type=Path, metavar="FILE_OR_FOLDER")
    inspect.set_defaults(run=_inspect)
    return parser


def _key_and_value(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, found {text!r}")
    return key, value


def _backward_motion(options: argparse.Namespace) -> None:
    metadata = {"frames": options.frames, "license": options.license, "temporal_attention": "rotated"}
    if options.source:
        metadata["source"] = options.source
    path = convert(
        options.base,
        options.fine_tuned,
        options.output,
        metadata,
        options.overwrite,
        PRECISIONS[options.dtype],
        _show_progress,
        options.allow_other_base,
        names=AT_A_TERMINAL,
    )
    print(f"\nwrote {path} ({path.stat().st_size / 2**20:.1f} MiB)")


def _checkpoint(options: argparse.Namespace) -> None:
    refuse_existing(options.output, options.overwrite, AT_A_TERMINAL)
    parts, dtype = read_folder(options.folder), PRECISIONS[options.dtype]
    for tensors in (parts.unet, parts.vae, parts.image_encoder):
        tensors.update({key: tensor.to(dtype) for key, tensor in tensors.items() if tensor.is_floating_point()})
    write_single_file(parts, options.output, dict(options.metadata), options.overwrite)
    print(f"wrote {options.output} ({options.output.stat().st_size / 2**20:.1f} MiB)")


def _inspect(options: argparse.Namespace) -> None:
    print("\n".join(describe(options.path)))


def _show_progress(done: int, total: int) -> None:
    print(f"\r{done} of {total} matrices", end="", flush=True)
