"""Trains the demo model from scratch: VAE, CLIP image encoder, latents, UNet, backward motion, each a stage of its own.

    python -m generative_inbetweening.demo.model.train --out FOLDER

Needs the training extra (diffusers, transformers) and a GPU or much patience; see README.md beside this file for
hardware and times. The result is a diffusers folder, FOLDER/demo-svd; progress goes to FOLDER/log.jsonl.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from torchvision.utils import save_image
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ...training.svd import use_original_group_norm
from ..world.world import make_frames
from .backward_motion import fine_tune
from .clips import HELD_OUT_SEED, cached_pool, encode_clips
from .image_encoder import train_image_encoder
from .loop import Training
from .networks import placed
from .unet import EMA_DECAY, sample_forward, train_unet
from .unet import LEARNING_RATE as UNET_RATE
from .vae import LEARNING_RATE as VAE_RATES
from .vae import leave_out_finest_layers, reconstruct, train_decoder, train_vae

logger = logging.getLogger(__name__)

STAGES = ("vae", "image_encoder", "decoder", "latents", "unet", "backward_motion", "preview")
STEPS = {"vae": 6000, "image_encoder": 1500, "decoder": 3000, "unet": 10000, "backward_motion": 300}
BATCHES = {"vae": 32, "image_encoder": 64, "decoder": 4, "unet": 32, "backward_motion": 32}
"""Clips, or crops of frames or clips, in a step."""
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
    parser.add_argument(
        "--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    parser.add_argument("--compile", action="store_true", help="compile the networks' blocks (needs a C++ compiler)")
    for stage, steps in STEPS.items():
        parser.add_argument(f"--steps-{stage.replace('_', '-')}", type=int, default=steps)
    for stage, batch in BATCHES.items():
        parser.add_argument(f"--batch-{stage.replace('_', '-')}", type=int, default=batch)
    parser.add_argument("--save-every", type=float, default=300, help="seconds between checkpoints (default 300)")
    parser.add_argument("--train-clips", type=int, default=40960)
    parser.add_argument("--test-clips", type=int, default=256)
    parser.add_argument(
        "--maps", choices=("rotated", "own"), default="rotated", help="attention maps to fine-tune with"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the fine-tuning (default 0)")
    return parser.parse_args(arguments)


def load_parts(model: Path, device: torch.device) -> tuple[AutoencoderKLTemporalDecoder, CLIPVisionModelWithProjection]:
    """The VAE and the image encoder of a diffusers folder, ready to encode."""
    vae = AutoencoderKLTemporalDecoder.from_pretrained(model / "vae").eval().requires_grad_(False)
    encoder = CLIPVisionModelWithProjection.from_pretrained(model / "image_encoder").eval().requires_grad_(False)
    leave_out_finest_layers(vae)
    return placed(vae, device), encoder.to(device)


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


def pools(options: argparse.Namespace) -> tuple[dict, dict]:
    """The encoded training and held-out clips, from the cache where they are there."""
    parts = load_parts(options.out / "demo-svd", options.device)
    folder = options.out / "latents"
    return (
        cached_pool(*parts, folder, "train", options.train_clips),
        cached_pool(*parts, folder, "test", options.test_clips),
    )


@torch.no_grad()
def decode(vae: AutoencoderKLTemporalDecoder, latents: torch.Tensor) -> torch.Tensor:
    """Frames in [0, 1], `[n, frames, 3, h, w]`, of scaled latents `[n, frames, 4, h, w]`."""
    clips = [vae.decode(clip / vae.config.scaling_factor, num_frames=len(clip)).sample for clip in latents]
    return ((torch.stack(clips) + 1) / 2).clamp(0, 1)


def write_preview(
    model: Path, path: Path, device: torch.device, clips: int = 8, guidance: tuple[float, ...] = (1.0, 2.0)
) -> Path:
    """A PNG with the frames of a clip in each row: for each held-out clip truth, reconstruction, and samples.

    `model`: diffusers folder; `guidance`: one sample for each. Runs without the host, so without `inspection/`'s sheet.
    """
    vae, image_encoder = load_parts(model, device)
    unet = UNetSpatioTemporalConditionModel.from_pretrained(model / "unet").eval().to(device)
    use_original_group_norm(unet)
    truth = make_frames(torch.arange(HELD_OUT_SEED, HELD_OUT_SEED + clips, device=device), "test")
    encoded = encode_clips(vae, image_encoder, truth, torch.Generator().manual_seed(0))
    columns = [truth, reconstruct(vae, truth)]
    columns += [
        decode(vae, sample_forward(unet, encoded["first"], encoded["embed_first"], guidance=g)) for g in guidance
    ]
    rows = torch.stack(columns, 1)
    save_image(rows.flatten(0, 2), path, nrow=rows.shape[2], padding=0)
    return path


def main(arguments: list[str] | None = None) -> None:
    """Runs the chosen stages in order; each goes on from its checkpoint (delete that to train a part anew)."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    out, model, device = options.out, options.out / "demo-svd", options.device
    model.mkdir(parents=True, exist_ok=True)
    write_pipeline_files(model)

    def training(stage: str, learning_rate: float, **more: float) -> Training:
        steps, checkpoint = getattr(options, f"steps_{stage}"), out / f"{stage}.safetensors"
        return Training(
            stage, steps, learning_rate, checkpoint, out / "log.jsonl", save_every=options.save_every, **more
        )

    if "vae" in options.stages and not (model / "vae").exists():
        train_vae(training("vae", VAE_RATES["vae"]), model / "vae", device, options.compile, options.batch_vae)
    if "image_encoder" in options.stages and not (model / "image_encoder").exists():
        train_image_encoder(
            training("image_encoder", 1e-3), model / "image_encoder", device, options.batch_image_encoder
        )
    if "decoder" in options.stages:
        stage = training("decoder", VAE_RATES["decoder"])
        train_decoder(stage, model / "vae", device, options.compile, options.batch_decoder)
    if {"latents", "unet", "backward_motion"} & set(options.stages):
        train_pool, test_pool = pools(options)
    if "unet" in options.stages:
        stage = training("unet", UNET_RATE, average_decay=EMA_DECAY)
        train_unet(stage, model / "unet", train_pool, test_pool, options.compile, options.batch_unet)
    if "backward_motion" in options.stages:
        steps, batch = options.steps_backward_motion, options.batch_backward_motion
        fine_tune(model, out / "backward_motion", train_pool, test_pool, steps, options.maps, options.seed, batch)
    if "preview" in options.stages:
        logger.info("preview: %s", write_preview(model, out / "preview.png", device))


if __name__ == "__main__":
    main()
