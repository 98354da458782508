"""Keyframe sequences of the small model, short enough for many runs."""

import torch
from generative_inbetweening.nodes import InbetweenKeyframe, InbetweenKeyframeSequence
from generative_inbetweening.sequence.keyframe_chain import KeyframeChain

from helpers.small_model import SIZE, pictures, settings

INPUTS = {
    "frames_per_segment": "4",
    "loop": False,
    "width": SIZE,
    "height": SIZE,
    "fps": 7,
    "motion_bucket": 127,
    "noise_augmentation": 0.0,
    "fit": "crop",
    "subdivisions": 0,
    "resume": True,
    "seed": 1,
    "preset": "paper",
}


def keyframes(count: int) -> torch.Tensor:
    """Different pictures, `[count, 64, 64, 3]`."""
    first, last = pictures()
    return torch.cat([first, last, first.flip(1), last.flip(1)])[:count]


def chain_of(*keyframes: tuple[torch.Tensor, int, float]) -> KeyframeChain:
    """The chain of one Keyframe node for each (picture, frames, strength)."""
    before = {}
    for picture, frames, strength in keyframes:
        before = {"keyframes": InbetweenKeyframe.execute(picture, frames, strength, **before).args[0]}
    return before["keyframes"]


def sequence(models, pictures_in_order: torch.Tensor | KeyframeChain, **changes) -> tuple[torch.Tensor, torch.Tensor]:
    """(images `[frames, height, width, 3]`, latents `[frames, 4, h, w]`) of Inbetween Keyframe Sequence."""
    chosen = {name: changes.pop(name) for name in list(changes) if name not in (*INPUTS, "close_loop")}
    images, latent = InbetweenKeyframeSequence.execute(
        *models, pictures_in_order, **{**INPUTS, **changes}, settings=settings(**{"steps": 1, **chosen})
    ).args
    return images, latent["samples"]


class Scaling:
    """A patch that keeps its number to itself."""

    def __init__(self, factor: float):
        self.factor = factor

    def __call__(self, arguments):
        return arguments["denoised"] * self.factor
