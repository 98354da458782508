"""Trains the demo model from scratch: VAE, CLIP image encoder, latents, UNet, each a stage that can be taken up again.

    python -m generative_inbetweening.demo.model.train --out FOLDER

Needs the training extra (diffusers, transformers) and a CPU; see README.md beside this file for hardware and times. The
result is a diffusers folder, FOLDER/demo-svd; progress goes to FOLDER/log.jsonl.
"""

from __future__ import annotations

import argparse
import json
import logging
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from torchvision.utils import save_image
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ...training.svd import use_original_group_norm
from ..world.world import make_clips
from .clips import HELD_OUT_SEED, cached_pool, encode_clips
from .image_encoder import train_image_encoder
from .parallel import launch
from .unet import sample_forward, train_unet
from .vae import train_decoder, train_vae, use_layers

logger = logging.getLogger(__name__)

STAGES = ("vae", "image_encoder", "latents", "unet", "decoder", "preview")
FEATURE_EXTRACTOR = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(OPENAI_CLIP_MEAN),
    "image_processor_type": "CLIPImageProcessor",
    "image_std": list(OPENAI_CLIP_STD),
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 224},
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m generative_inbetweening.demo.model.train",
        description="Trains the demo model from scratch, in stages that can be taken up again.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the result, checkpoints, latents and log")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="which stages to run")
    parser.add_argument("--processes", type=int, default=2, help="processes that train together (default 2)")
    parser.add_argument("--minutes-vae", type=float, default=9.5)
    parser.add_argument("--minutes-image-encoder", type=float, default=3)
    parser.add_argument(
        "--minutes-unet",
        type=float,
        default=50,
        help="over all runs: a larger number than before goes on from the checkpoint",
    )
    parser.add_argument("--minutes-decoder", type=float, default=6.5)
    parser.add_argument("--train-clips", type=int, default=5120)
    parser.add_argument("--test-clips", type=int, default=64)
    return parser.parse_args(arguments)


def load_parts(model: Path) -> tuple[AutoencoderKLTemporalDecoder, CLIPVisionModelWithProjection]:
    """The VAE and the image encoder of a diffusers folder, ready to encode."""
    return (
        AutoencoderKLTemporalDecoder.from_pretrained(model / "vae").eval().requires_grad_(False),
        CLIPVisionModelWithProjection.from_pretrained(model / "image_encoder").eval().requires_grad_(False),
    )


def write_pipeline_files(model: Path) -> None:
    """The small files that make the parts a StableVideoDiffusionPipeline folder."""
    EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        steps_offset=1,
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
    ).save_pretrained(model / "scheduler")
    (model / "feature_extractor").mkdir(parents=True, exist_ok=True)
    (model / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(FEATURE_EXTRACTOR, indent=2))
    (model / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "StableVideoDiffusionPipeline",
                "_diffusers_version": "0.24.0.dev0",
                "feature_extractor": ["transformers", "CLIPImageProcessor"],
                "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
                "scheduler": ["diffusers", "EulerDiscreteScheduler"],
                "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
                "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
            },
            indent=1,
        )
    )


def pools(out: Path, options: argparse.Namespace) -> tuple[dict, dict]:
    """The encoded training and held-out clips, from the cache where they are there."""
    parts = load_parts(out / "demo-svd")
    use_layers(parts[0], fine=False, temporal=False)  # the encoder's fine resnets are the identity: not needed here
    return (
        cached_pool(*parts, out / "latents", "train", options.train_clips),
        cached_pool(*parts, out / "latents", "test", options.test_clips),
    )


@torch.no_grad()
def decode(vae: AutoencoderKLTemporalDecoder, latents: torch.Tensor) -> torch.Tensor:
    """Frames in [0, 1], `[n, frames, 3, h, w]`, of scaled latents `[n, frames, 4, h, w]`."""
    n, frames = latents.shape[:2]
    decoded = vae.decode(latents.flatten(0, 1) / vae.config.scaling_factor, num_frames=frames).sample
    return ((decoded + 1) / 2).clamp(0, 1).unflatten(0, (n, frames))


def write_preview(model: Path, path: Path, clips: int = 8, guidance: tuple[float, ...] = (1.0, 2.0)) -> Path:
    """A PNG with the frames of a clip in each row: for each held-out clip truth, reconstruction, and samples.

    `model`: diffusers folder; `guidance`: one sample for each. Runs without the host, so without `inspection/`'s sheet.
    """
    vae, image_encoder = load_parts(model)
    unet = UNetSpatioTemporalConditionModel.from_pretrained(model / "unet").eval()
    use_original_group_norm(unet)
    truth = make_clips(list(range(HELD_OUT_SEED, HELD_OUT_SEED + clips)), "test")
    encoded = encode_clips(vae, image_encoder, truth, torch.Generator().manual_seed(0))
    columns = [torch.stack([clip.frames for clip in truth]), decode(vae, encoded["latents"])]
    columns += [
        decode(vae, sample_forward(unet, encoded["first"], encoded["embed_first"], guidance=g)) for g in guidance
    ]
    rows = torch.stack(columns, 1)
    save_image(rows.flatten(0, 2), path, nrow=rows.shape[2], padding=0)
    return path


def _worker(stage: str, options: argparse.Namespace) -> None:
    """One process of a parallel stage."""
    _show_progress()
    out, model = options.out, options.out / "demo-svd"
    if stage == "vae":
        train_vae(model / "vae", options.minutes_vae, log_path=out / "log.jsonl")
    elif stage == "decoder":
        train_decoder(model / "vae", options.minutes_decoder, log_path=out / "log.jsonl")
    else:
        train, test = pools(out, options)
        train_unet(out, model / "unet", train, test, options.minutes_unet)


def _show_progress() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


def main(arguments: list[str] | None = None) -> None:
    """Runs the chosen stages in order; a part that is there already is kept (delete its folder to train it anew)."""
    options = parse_arguments(arguments)
    _show_progress()
    model = options.out / "demo-svd"
    model.mkdir(parents=True, exist_ok=True)
    write_pipeline_files(model)
    parallel = partial(launch, _worker, options.processes)
    if "vae" in options.stages and not (model / "vae").exists():
        parallel("vae", options)
    if "image_encoder" in options.stages and not (model / "image_encoder").exists():
        train_image_encoder(model / "image_encoder", options.minutes_image_encoder, log_path=options.out / "log.jsonl")
    if {"latents", "unet"} & set(options.stages):
        pools(options.out, options)
    if "unet" in options.stages:
        parallel("unet", options)
    if "decoder" in options.stages:
        parallel("decoder", options)
    if "preview" in options.stages:
        logger.info("preview: %s", write_preview(model, options.out / "preview.png"))


if __name__ == "__main__":
    main()
