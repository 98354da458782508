"""Records what the authors' own pipeline computes, for tests/sampler/test_parity.py.

    python tests/reference/record.py --authors FOLDER --out FOLDER

`--authors` is a checkout of github.com/jeanne-wang/svd_keyframe_interpolation, `--out` a folder that is made: the
models of ../helpers/wide_models.py, and for each case two pictures and its tensors (README.md beside this file). The
authors' sampling code runs unmodified under today's diffusers, once in float32 and once in float64 with the same
draws; how far the two are apart is the noise floor. Two things are as in the original SVD: GroupNorm's eps in the
UNet's resnets, which is another in diffusers, and each video's own image embedding in the temporal cross-attention of
a batch, which diffusers has right since 0.28 and this file checks.
"""

import argparse
import importlib
import json
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

import diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion as diffusers_svd
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from diffusers.utils import torch_utils
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.wide_models import BASE, FINE_TUNED, REVERSE_MOTION, XT, write_models

GROUP_NORM_EPS = 1e-5
PICTURES = ("examples/example_003/frame1.png", "examples/example_003/frame2.png")
DEFAULTS = {
    "width": 128,
    "height": 64,
    "weighted_average": False,
    "inject_steps": 0,
    "inject_ratio": 0.0,
    "min_cfg": 1.0,
    "max_cfg": 3.0,
    "fps": 7,
    "bucket": 127,
    "aug": 0.02,
    "decoded": False,
}
CASES = {
    "plain": {"frames": 5, "steps": 3, "seed": 3, "decoded": True},
    "injected": {
        "frames": 6,
        "steps": 4,
        "seed": 5,
        "inject_steps": 2,
        "inject_ratio": 0.5,
        "fps": 12,
        "bucket": 60,
        "aug": 0.1,
    },
    "weighted": {
        "width": 64,
        "height": 128,
        "frames": 7,
        "steps": 4,
        "seed": 7,
        "weighted_average": True,
        "inject_steps": 1,
        "inject_ratio": 0.3,
        "min_cfg": 1.2,
        "max_cfg": 3.5,
    },
}


@dataclass
class Draws:
    """The pipeline's random numbers: drawn and kept in the first run, given again in later ones."""

    kept: list[torch.Tensor] = field(default_factory=list)
    used: int = 0

    def __call__(self, shape, generator=None, device=None, dtype=None, layout=None) -> torch.Tensor:
        if self.used == len(self.kept):
            self.kept.append(torch_utils.randn_tensor(shape, generator, device, torch.float32))
        self.used += 1
        return self.kept[self.used - 1].to(dtype)


def import_authors(folder: Path) -> tuple[types.ModuleType, types.ModuleType, types.ModuleType]:
    """Their pipeline, scheduler and attention modules.

    diffusers has no `tensor2vid` any more; the stub hands the decoded frames through.
    """
    sys.path.insert(0, str(folder))
    diffusers_svd.tensor2vid = lambda frames, processor, output_type: frames
    return tuple(
        importlib.import_module(name)
        for name in (
            "custom_diffusers.pipelines.pipeline_frame_interpolation_with_noise_injection",
            "custom_diffusers.schedulers.scheduling_euler_discrete",
            "attn_ctrl.attention_control",
        )
    )


def load_unet(folder: Path, dtype: torch.dtype) -> UNetSpatioTemporalConditionModel:
    unet = UNetSpatioTemporalConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype)
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.GroupNorm) and ".resnets." in name:
            module.eps = GROUP_NORM_EPS
    return unet


def check_cross_attention_context(unet: UNetSpatioTemporalConditionModel) -> None:
    """Raises SystemExit where a batch of two videos mixes up their image embeddings."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn([2, 3, 8, 8, 8], generator=generator).to(unet.dtype)
    embeddings = torch.randn([2, 1, unet.config.cross_attention_dim], generator=generator).to(unet.dtype)
    ids = torch.tensor([[6, 127, 0.02]] * 2, dtype=unet.dtype)
    with torch.no_grad():
        both = unet(latents, 1.0, embeddings, ids, return_dict=False)[0]
        alone = unet(latents[1:], 1.0, embeddings[1:], ids[1:], return_dict=False)[0]
    if (both[1:] - alone).abs().max() > 1e-3 * alone.std():
        raise SystemExit("This diffusers mixes up the image embeddings of two videos in a batch. Install a newer one.")


def load_pipeline(authors, models: Path, dtype: torch.dtype):
    """Their pipeline with the backward network that their script makes: XT + (fine-tuned − base)."""
    pipeline_module, scheduler_module, attention = authors
    xt = models / XT
    pipeline = pipeline_module.FrameInterpolationWithNoiseInjectionPipeline(
        vae=AutoencoderKLTemporalDecoder.from_pretrained(xt, subfolder="vae", torch_dtype=dtype),
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(xt, subfolder="image_encoder", dtype=dtype),
        unet=load_unet(xt, dtype),
        scheduler=scheduler_module.EulerDiscreteScheduler.from_pretrained(xt, subfolder="scheduler"),
        feature_extractor=CLIPImageProcessor.from_pretrained(xt, subfolder="feature_extractor"),
    )
    check_cross_attention_context(pipeline.unet)
    base, tuned = (load_unet(models / name, dtype).state_dict() for name in (BASE, REVERSE_MOTION))
    with torch.no_grad():
        for name, parameter in pipeline.unet.named_parameters():
            if name.endswith(FINE_TUNED):
                parameter += tuned[name] - base[name]
    reference = attention.AttentionStore()
    attention.register_temporal_self_attention_control(pipeline.ori_unet, reference)
    attention.register_temporal_self_attention_flip_control(pipeline.unet, attention.AttentionStore(), reference)
    for name in ("numpy_to_pt", "preprocess"):
        setattr(pipeline.image_processor, name, _in(dtype, getattr(pipeline.image_processor, name)))
    # Their scheduler takes every step in float32, whatever it is given.
    scheduler_module.torch = _TorchWithFloat32As(dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _in(dtype: torch.dtype, function):
    return lambda *arguments, **named: function(*arguments, **named).to(dtype)


class _TorchWithFloat32As:
    def __init__(self, dtype: torch.dtype):
        self.float32 = dtype

    def __getattr__(self, name: str):
        return getattr(torch, name)


def run(authors, models: Path, settings: dict, pictures: list[Image.Image], draws: Draws, dtype: torch.dtype) -> dict:
    """{name: tensor} of one run of their pipeline."""
    pipeline, seen = load_pipeline(authors, models, dtype), {}
    draws.used = 0
    authors[0].randn_tensor = draws

    def watch(name: str):
        method = getattr(pipeline, name)

        def watched(*arguments, **named):
            result = method(*arguments, **named)
            seen.setdefault(name, []).append((arguments[0], result))
            return result

        setattr(pipeline, name, watched)

    for name in ("_encode_image", "_encode_vae_image", "_get_add_time_ids", "multidiffusion_step"):
        watch(name)
    for name, unet in (("forward", pipeline.ori_unet), ("backward", pipeline.unet)):
        unet.register_forward_hook(lambda _, __, output, name=name: seen.setdefault(name, []).append(output[0]))

    def keep_last(_, __, ___, kept):
        seen["final"] = kept["latents"]
        return kept

    # Re-injections draw from the global generator; with the other generator's seed they would repeat its numbers.
    torch.manual_seed(settings["seed"] + 1)
    frames = pipeline(
        *pictures,
        height=settings["height"],
        width=settings["width"],
        num_frames=settings["frames"],
        num_inference_steps=settings["steps"],
        min_guidance_scale=settings["min_cfg"],
        max_guidance_scale=settings["max_cfg"],
        fps=settings["fps"],
        motion_bucket_id=settings["bucket"],
        noise_aug_strength=settings["aug"],
        generator=torch.Generator().manual_seed(settings["seed"]),
        weighted_average=settings["weighted_average"],
        noise_injection_steps=settings["inject_steps"],
        noise_injection_ratio=settings["inject_ratio"],
        callback_on_step_end=keep_last,
        output_type="pt" if settings["decoded"] else "latent",
    ).frames
    evaluated, fused = zip(*seen["multidiffusion_step"])
    # Conditional after unconditional.
    embeddings, image_latents = (
        [result[1:] for _, result in seen[name]] for name in ("_encode_image", "_encode_vae_image")
    )
    tensors = {
        "embed_first": embeddings[0],
        "embed_last": embeddings[1],
        "concat_first": image_latents[0],
        "concat_last": image_latents[1],
        "added_time_ids": seen["_get_add_time_ids"][0][1][:1],
        "sigmas": pipeline.scheduler.sigmas,
        "step0_forward_v_uncond_cond": seen["forward"][0],
        "step0_backward_v_uncond_cond": seen["backward"][0],
        "step0_fused_v": fused[0],
        "evaluated_latents": torch.stack(evaluated),
        "final_latents": seen["final"],
    }
    if settings["decoded"]:
        tensors["decoded_frames"] = frames
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def record(authors, out: Path, name: str, settings: dict, sources: list[Image.Image]) -> None:
    """Writes NAME.first.png, NAME.last.png and NAME.safetensors."""
    pictures = [
        source.convert("RGB").resize((settings["width"], settings["height"]), Image.LANCZOS) for source in sources
    ]
    for picture, which in zip(pictures, ("first", "last")):
        picture.save(out / f"{name}.{which}.png", optimize=True)
    draws = Draws()
    tensors = run(authors, out, settings, pictures, draws, torch.float32)
    exact = run(authors, out, settings, pictures, draws, torch.float64)
    augmentation, initial, *injected = draws.kept
    for key in tensors:
        difference = (tensors[key].double() - exact[key].double()).abs()
        print(
            f"{name}: {key}: float32 differs from float64 by {difference.mean():.1e} in the mean, "
            f"{difference.max():.1e} at most (standard deviation {exact[key].double().std():.2g})"
        )
    noise = {
        "augmentation_noise": augmentation,
        "initial_noise": initial,
        **({"injected_noise": torch.stack(injected)} if injected else {}),
    }
    # The clones part tensors that share memory, which a safetensors file may not hold.
    save_file(
        {
            key: tensor.float().clone()
            for key, tensor in {**tensors, **{f"{key}_float64": value for key, value in exact.items()}, **noise}.items()
        },
        out / f"{name}.safetensors",
        {"case": json.dumps(settings)},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path, required=True, help="a checkout of the authors' repository")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write, which must not exist yet")
    arguments = parser.parse_args()
    missing = [path for path in PICTURES if not (arguments.authors / path).is_file()]
    if missing:
        parser.error(f"--authors: expected a checkout of the authors' repository, found no {missing[0]} in it.")
    if arguments.out.exists():
        parser.error("--out: expected a folder that is not there yet, found one. Name another.")
    sources = [Image.open(arguments.authors / path) for path in PICTURES]
    authors = import_authors(arguments.authors)
    arguments.out.mkdir(parents=True)
    write_models(arguments.out)
    for name, changes in CASES.items():
        record(authors, arguments.out, name, {**DEFAULTS, **changes}, sources)


if __name__ == "__main__":
    main()
