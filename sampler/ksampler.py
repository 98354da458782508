"""The host's KSampler with the dual-direction guider and re-injections in it: its noise levels, and the run."""

from typing import cast

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_align_your_steps import AlignYourStepsScheduler

from ..common.intermediate import handed_on
from ..common.remarks import remark
from .conditioning import Conditioning
from .guider import DualDirectionGuider
from .latent_checks import check_batch_index, check_samples
from .progress import Callback, clip_preview
from .samplers import ReinjectionSampler
from .settings import Settings, check_choice

ALIGN_YOUR_STEPS = "align_your_steps"
_LONGEST_RUN = 1_000_000


def schedulers() -> tuple[str, ...]:
    """The names that there are now: other packs add theirs to the host's after this one was imported."""
    return (*(name for name in comfy.samplers.KSampler.SCHEDULERS if name != ALIGN_YOUR_STEPS), ALIGN_YOUR_STEPS)


def align_your_steps(steps: int) -> torch.Tensor:
    """σ falling from 700 to 0, `[steps + 1]`: the levels that Sabour et al. optimised for SVD, as the host has them.

    "Align Your Steps", arXiv 2404.14507: ten steps, interpolated log-linearly for other step counts.
    """
    return AlignYourStepsScheduler.execute("SVD", steps, 1.0).args[0]


def check_sampler(settings: Settings) -> None:
    """Raises ValueError, naming the input, for an unknown sampler or scheduler, or one that the strategy cannot use."""
    sampler_name = settings.sampler.sampler_name
    check_choice("sampler_name", sampler_name, comfy.samplers.KSampler.SAMPLERS)
    if settings.guider.alternating and sampler_name != "euler":
        raise ValueError(
            f"sampler_name: expected euler, found {sampler_name}: the alternating strategies make their "
            "own steps. Choose euler, or another strategy."
        )
    check_choice("scheduler", settings.sampler.scheduler, schedulers())


def noise_levels(model: ModelPatcher, sampler_name: str, scheduler: str, steps: int, denoise: float) -> torch.Tensor:
    """σ of each step for the host's MODEL, falling, `[steps + 1]`.

    With `denoise` (0…1) below 1 they are the last of a longer run. For names that `check_sampler` let pass. Raises
    ValueError, naming the input, for a run longer than a million steps.
    """
    if 0 < denoise < steps / _LONGEST_RUN:
        raise ValueError(
            f"denoise: expected 0, or at least {steps / _LONGEST_RUN:g} with {steps} steps, found "
            f"{denoise:g}. Raise it."
        )
    if scheduler != ALIGN_YOUR_STEPS:
        return comfy.samplers.KSampler(
            model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
        ).sigmas
    if denoise <= 0:
        return torch.zeros(0)
    return align_your_steps(steps if denoise > 0.9999 else int(steps / denoise))[-(steps + 1) :]


def dual_direction_ksampler(
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    latent: dict,
    seed: int,
    denoise: float,
    settings: Settings,
    callback: Callback | None = None,
) -> dict:
    """The LATENT between the keyframes; `latent` itself is not changed.

    Alternating strategies add noise by themselves, so they have no re-injections. `callback(evaluation, x0, x,
    evaluations)`: the host's bar and preview by default. Raises ValueError as the guider does.
    """
    check_sampler(settings)
    guider = DualDirectionGuider(model, positive, negative, settings.guider)
    chosen = settings.sampler
    sigmas = noise_levels(model, chosen.sampler_name, chosen.scheduler, chosen.steps, denoise)
    sampler = comfy.samplers.sampler_object(chosen.sampler_name)
    if not settings.guider.alternating:
        sampler = ReinjectionSampler(sampler, chosen.reinjection)
    check_samples(latent["samples"])
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    check_batch_index(latent.get("batch_index"), len(samples))
    noise = cast("torch.Tensor", comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")))
    callback = callback or clip_preview(model, max(len(sigmas) - 1, 1))
    result = guider.sample(
        noise, samples, sampler, sigmas, latent.get("noise_mask"), callback, not comfy.utils.PROGRESS_BAR_ENABLED, seed
    )
    if not torch.isfinite(result).all():
        remark(
            "Dual-direction sampling: the result holds NaN or infinity, and its frames will be black or broken. Run "
            "it again, or start ComfyUI with --force-fp32."
        )
    return {**latent, "samples": handed_on(result)}
