"""What the benchmark compares: a clip's middle frame as keyframe or not, and how its correction falls off.

Each strategy has few steps, as the presets `fast` and `training-free`; the alternating ones, which make steps of their
own, take as many UNet videos.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from ...nodes import InbetweenMiddleKeyframe
from ...sampler import guider, settings
from ...sampler.method.middle_keyframes import correction_weights, falling_linearly
from ...sampler.method.noise import stream_seed
from ..common.clips import HeldOutClip
from ..common.methods import Method, Methods, Video, images, replaced

_FAST = {"fusion": "weighted", "scheduler": "align_your_steps", "sampler_name": "euler_ancestral", "steps": 7}
_ALTERNATING = {"scheduler": "align_your_steps", "steps": 7}


def _steps(fixed: dict) -> dict:
    if fixed.get("motion_prior_distillation"):
        # As in its authors' release: two of the 7 steps, of which the paper's tenth would be one.
        return {**_ALTERNATING, "distilled_share": 0.2}
    if fixed.get("alternating"):
        return _ALTERNATING
    return {**_FAST, "reinjections": 0, **({"steps": 14} if fixed.get("endpoint_correction") else {})}


STRATEGIES = {name: _steps(fixed) for name, fixed in settings.STRATEGIES.items()}
WAYS = {
    "ends": "two keyframes",
    "middle": "a middle keyframe, too",
    "segments": "two segments",
}


@dataclass(frozen=True)
class Way(Method):
    """`keyframes`: one of WAYS; `covariance`: another falloff than the product's; `strength`: that of the weights."""

    keyframes: str = "middle"
    covariance: Callable[[torch.Tensor], torch.Tensor] | None = None


def _gaussian(distances: torch.Tensor, width: float) -> torch.Tensor:
    return torch.exp(-((distances / width) ** 2) / 2)


def _cosine(distances: torch.Tensor, reach: float) -> torch.Tensor:
    return (1 + torch.cos(torch.pi * (distances / reach).clamp(max=1))) / 2


def _of(strategy: str, **changes) -> Way:
    weights = None if strategy in settings.TRAINING_FREE else "rotated"
    return Way(strategy, {"strategy": strategy, **STRATEGIES[strategy]}, weights, **changes)


COMPARED = {
    f"{strategy}-{keyframes}": replace(_of(strategy, keyframes=keyframes), label=f"{strategy}, {words}")
    for strategy in STRATEGIES
    for keyframes, words in WAYS.items()
}
FALLOFFS = {
    "none": ("none", partial(falling_linearly, reach=1)),
    "linear-2": ("linear over 2 frames", partial(falling_linearly, reach=2)),
    "linear-3": ("linear over 3 frames", partial(falling_linearly, reach=3)),
    "linear-4": ("linear over 4 frames", partial(falling_linearly, reach=4)),
    "linear-8": ("linear over 8 frames", partial(falling_linearly, reach=8)),
    "cosine-3": ("cosine over 3 frames", partial(_cosine, reach=3)),
    "gaussian-1": ("Gaussian of 1 frame", partial(_gaussian, width=1)),
}
CANDIDATES = {
    f"{strategy}-{name}": replace(_of(strategy, covariance=covariance), label=f"{strategy}, {words}")
    for strategy in STRATEGIES
    for name, (words, covariance) in FALLOFFS.items()
}


class Ways(Methods):
    """All of them on one model."""

    def run(self, name: str, clip: HeldOutClip) -> Video:
        """The video of the clip's first and last frame and, in two of the ways, its middle one."""
        method = self.methods.get(name)
        if not isinstance(method, Way) or method.keyframes == "ends":
            return super().run(name, clip)
        middle = len(clip.truth) // 2
        if method.keyframes == "segments":
            first = replace(clip, truth=clip.truth[: middle + 1])
            second = replace(clip, truth=clip.truth[middle:], seed=stream_seed(clip.seed, "segment", 1))
            before, after = (super(Ways, self).run(name, part) for part in (first, second))
            return Video(
                torch.cat([before.frames, after.frames[1:]]),
                before.evaluations + after.evaluations,
                before.unet_videos + after.unet_videos,
            )
        falloff = {} if method.covariance is None else {"covariance": method.covariance}
        weights = partial(correction_weights, **falloff)
        with self.computing(), replaced(guider, "correction_weights", weights):
            (keyframes,) = InbetweenMiddleKeyframe.execute(images(clip.truth[[middle]]), middle, 1.0).args
            return self.sampled(name, self.encode(clip, middle_keyframes=keyframes), clip.seed)
