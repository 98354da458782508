"""Guidance of one direction, with the functions that the host's nodes put before, around and behind it.

    D = D_u + g (D_c − D_u)

Every function gets what the host's own guider would give it in a run of this direction alone: tensors in the
direction's own time, the direction's conditioning, zeros for an unconditional half that is not computed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import comfy.samplers
import torch

from .method.fusion import FUSIONS, changes_nothing, guidance_scales

_CFG, _PRE_CFG, _POST_CFG = "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function"


class OwnScale(float):
    """The scale that the guider's settings give, as long as no node puts a number of its own in its place."""


@dataclass(frozen=True)
class Guidance:
    """How strongly a direction is guided.

    `scales`: one number, or one for each frame in the direction's own time, `[frames, 1, 1, 1]`; `scale`: the one
    number that functions of other nodes are made for; `needed`: whether the unconditional half counts at all;
    `combines`: whether a custom CFG function is called, which the host does at a scale of 1, too.
    """

    scales: torch.Tensor | float
    scale: float
    needed: bool
    combines: bool = True

    @classmethod
    def constant(cls, scale: float) -> "Guidance":
        """The same scale in every frame."""
        return cls(float(scale), float(scale), not math.isclose(scale, 1.0))

    @classmethod
    def off(cls) -> "Guidance":
        """The conditional estimate as it is."""
        return cls(1.0, 1.0, False, False)

    @classmethod
    def of_settings(cls, fusion: str, frames: int, minimum: float, maximum: float, device) -> "Guidance":
        """The scales of a fusion. Decided on the CPU: reading a device tensor would force a sync."""
        scales = guidance_scales(fusion, frames, minimum, maximum)
        return cls(scales.to(device), far_scale(fusion, minimum, maximum), not changes_nothing(scales))


def far_scale(fusion: str, minimum: float, maximum: float) -> OwnScale:
    """The scale at a direction's far end.

    A host's function that ramps guidance over the frames, as SVD's own do, ramps up to the number that it is given.
    """
    return OwnScale(FUSIONS[fusion].far_scale(minimum, maximum))


@dataclass(frozen=True)
class GuidanceContext:
    """What the host's functions are shown: model, conditioning (its unconditional half None where not computed),
    noisy latents in the direction's own time, their noise level, and options by which they can call the model."""

    model: object
    positive: list
    negative: list | None
    x: torch.Tensor
    timestep: torch.Tensor
    model_options: dict

    def after(self, function: Callable, denoised: torch.Tensor, halves: list[torch.Tensor], scale: float):
        """What a post-guidance function makes of the estimate."""
        return function(
            {
                "denoised": denoised,
                "cond": self.positive,
                "uncond": self.negative,
                "cond_scale": scale,
                "model": self.model,
                "uncond_denoised": halves[1],
                "cond_denoised": halves[0],
                "sigma": self.timestep,
                "model_options": self.model_options,
                "input": self.x,
            }
        )


def guide(
    context: GuidanceContext,
    conditional: torch.Tensor,
    unconditional: torch.Tensor | None,
    guidance: Guidance,
    post_functions: list[Callable],
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(guided estimate, [conditional, unconditional] as guidance used them), all `[frames, 4, h, w]`."""
    options, computed = context.model_options, unconditional is not None
    conds = [context.positive, context.negative]
    halves = [conditional, unconditional if computed else torch.zeros_like(conditional)]
    for function in options.get(_PRE_CFG, []):
        halves = function(
            {
                "conds": conds,
                "conds_out": halves,
                "cond_scale": guidance.scale,
                "timestep": context.timestep,
                "input": context.x,
                "sigma": context.timestep,
                "model": context.model,
                "model_options": options,
            }
        )
    combined = computed or (guidance.combines and _CFG in options)
    denoised = _combined(context, halves, guidance) if combined else halves[0]
    for function in post_functions:
        denoised = context.after(function, denoised, halves, guidance.scale)
    return denoised, halves


def _combined(context: GuidanceContext, halves: list[torch.Tensor], guidance: Guidance) -> torch.Tensor:
    options = {**context.model_options, _POST_CFG: []}
    return comfy.samplers.cfg_function(
        context.model,
        halves[0],
        halves[1],
        guidance.scale if _CFG in options else guidance.scales,
        context.x,
        context.timestep,
        model_options=options,
        cond=context.positive,
        uncond=context.negative,
    )


def functions_of_nodes(model_options: dict) -> list[Callable]:
    """The post-guidance functions that nodes left on a model."""
    return list(model_options.get(_POST_CFG, []))


def functions_of_sampler(model_options: dict, node_functions: list[Callable]) -> list[Callable]:
    """Those that the sampler added for itself, such as the host's CFG++ samplers, to see both directions as one."""
    return [
        function
        for function in model_options.get(_POST_CFG, [])
        if not any(function is other for other in node_functions)
    ]
