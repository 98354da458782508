"""How a clip is made from its first, middle and last frame: by two segments, by what should join them, by one clip."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from ...nodes import (
    InbetweenDualDirectionKSampler,
    InbetweenEncodeKeyframes,
    InbetweenKeyframe,
    InbetweenKeyframeSequence,
    InbetweenMiddleKeyframe,
)
from ...sampler.method.noise import stream_seed
from ...sampler.settings import Settings, chosen_settings
from ...sequence.plan import clip_seed
from ..common.clips import HeldOutClip
from ..common.methods import FPS, MOTION_BUCKET, NOISE_AUGMENTATION, Method, Methods, Video
from .overlapping import sample_overlapping, windows

PRESET = "fast"


@dataclass(frozen=True)
class Way(Method):
    """`latents(methods, clip)`: the whole clip's, `[frames, 4, h, w]`."""

    latents: Callable[["Ways", HeldOutClip], torch.Tensor] | None = None


class Ways(Methods):
    """All of them on one model, with the settings of one preset."""

    def run(self, name: str, clip: HeldOutClip) -> Video:
        """The video that a way makes; `unet_videos` are of a segment's length, since some take longer ones."""
        way = self.methods.get(name)
        if not isinstance(way, Way) or way.latents is None:
            return super().run(name, clip)
        self.unet_frames = 0
        with self.computing():
            latents = way.latents(self, clip)
            return Video(self._decode(latents), 0, round(self.unet_frames / (middle_of(clip) + 1)))

    @property
    def chosen(self) -> Settings:
        """What all ways sample with."""
        return chosen_settings(PRESET, "2")

    def _count_videos(self) -> None:
        """Counts the frames that go through the UNet, whoever sends them."""
        self.unet_frames = 0

        def counting(apply_model, arguments):
            self.unet_frames += len(arguments["input"])
            return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

        self.base = self.base.clone()
        self.base.set_model_unet_function_wrapper(counting)

    def encoded(self, clip: HeldOutClip, first: torch.Tensor, last: torch.Tensor, frames: int, **optional):
        """(positive, negative, latent) of two keyframes `[1, h, w, 3]`."""
        height, width = clip.truth.shape[-2:]
        shared = (FPS, MOTION_BUCKET, NOISE_AUGMENTATION, clip.seed, "crop")
        ends = {"first_keyframe": first, "last_keyframe": last}
        return InbetweenEncodeKeyframes.execute(
            self.clip_vision, self.vae, width, height, frames, *shared, **ends, **optional
        ).args

    def sample(self, encoded, seed: int, denoise: float = 1.0) -> torch.Tensor:
        """The latents of one clip, `[frames, 4, h, w]`."""
        (result,) = InbetweenDualDirectionKSampler.execute(
            self.model(), *encoded, seed, PRESET, denoise, self.chosen
        ).args
        return result["samples"]


def middle_of(clip: HeldOutClip) -> int:
    """The frame at which two segments meet."""
    return len(clip.truth) // 2


def keyframes_of(clip: HeldOutClip) -> torch.Tensor:
    """The first, the middle and the last frame, `[3, h, w, 3]`."""
    return clip.truth[[0, middle_of(clip), -1]].movedim(1, -1).contiguous()


def sequence(ways: Ways, clip: HeldOutClip, keyframes: Any) -> torch.Tensor:
    """Inbetween Keyframe Sequence of a chain, or of pictures that are as far apart as the clip's keyframes."""
    height, width = clip.truth.shape[-2:]
    _, latent = InbetweenKeyframeSequence.execute(
        ways.model(),
        ways.clip_vision,
        ways.vae,
        keyframes,
        str(middle_of(clip) + 1),
        False,
        width=width,
        height=height,
        fps=FPS,
        motion_bucket=MOTION_BUCKET,
        noise_augmentation=NOISE_AUGMENTATION,
        fit="crop",
        seed=clip.seed,
        preset=PRESET,
        subdivisions=0,
        resume=False,
        settings=ways.chosen,
    ).args
    return latent["samples"]


def two_segments(ways: Ways, clip: HeldOutClip) -> torch.Tensor:
    """A segment from keyframe to keyframe, and another."""
    return sequence(ways, clip, keyframes_of(clip))


def guided(ways: Ways, clip: HeldOutClip, count: int) -> torch.Tensor:
    """Two segments, the second sampled with the last `count` frames of the first before it, which guide it.

    It begins at the picture of the first of them. All of them and the keyframe are held by a noise mask: at each
    evaluation they are the first segment's at that noise level, as in Lugmayr et al., "RePaint", arXiv 2201.09865,
    section 4.1.
    """
    first, middle, last = keyframes_of(clip).split(1)
    length = middle_of(clip) + 1
    before = ways.sample(ways.encoded(clip, first, middle, length), clip_seed(clip.seed, (0,)))
    begin = ways.vae.decode(before)[-count - 1 :][:1]
    positive, negative, latent = ways.encoded(clip, begin, last, count + length)
    latent["samples"][: count + 1] = before[-count - 1 :]
    mask = torch.ones(count + length, *before.shape[-2:])
    mask[: count + 1] = 0
    after = ways.sample((positive, negative, {**latent, "noise_mask": mask}), clip_seed(clip.seed, (1,)))
    return torch.cat([before, after[count + 1 :]])


def sampled_again(ways: Ways, clip: HeldOutClip, reach: int, denoise: float) -> torch.Tensor:
    """Two segments; then the `reach` frames on each side of their keyframe anew, from this much noise.

    They are sampled as a clip of their own between the frames that follow on either side. The keyframe itself is held.
    """
    latents = two_segments(ways, clip)
    middle = middle_of(clip)
    part = latents[middle - reach - 1 : middle + reach + 2]
    ends = ways.vae.decode(part[[0, -1]])
    mask = torch.ones_like(part[:, 0])
    mask[[0, reach + 1, -1]] = 0
    positive, negative, _ = ways.encoded(clip, ends[:1], ends[1:], len(part))
    again = ways.sample(
        (positive, negative, {"samples": part, "noise_mask": mask}), stream_seed(clip.seed, "again"), denoise
    )
    return torch.cat([latents[: middle - reach], again[1:-1], latents[middle + reach + 1 :]])


def overlapping(ways: Ways, clip: HeldOutClip, past: int) -> torch.Tensor:
    """Two segments sampled together, each direction `past` frames beyond the keyframe that they share."""
    frames, pictures = len(clip.truth), keyframes_of(clip).split(1)
    segments = [ways.encoded(clip, *ends, frames) for ends in pairwise(pictures)]
    layout = windows(len(segments), middle_of(clip), past, ways.chosen.guider)
    return sample_overlapping(ways.model(), segments, layout, clip.seed, ways.chosen)


def one_clip(ways: Ways, clip: HeldOutClip, strength: float) -> torch.Tensor:
    """Inbetween Keyframe Sequence of a chain whose middle keyframe lies inside the one clip."""
    chain: dict = {}
    for picture, kept in zip(keyframes_of(clip).split(1), (1.0, strength, 1.0), strict=True):
        (chain["keyframes"],) = InbetweenKeyframe.execute(picture, middle_of(clip) + 1, kept, **chain).args
    return sequence(ways, clip, chain["keyframes"])


def one_clip_exactly(ways: Ways, clip: HeldOutClip) -> torch.Tensor:
    """One clip of both segments' length, with a middle keyframe of strength 1."""
    first, middle, last = keyframes_of(clip).split(1)
    (keyframe,) = InbetweenMiddleKeyframe.execute(middle, middle_of(clip), 1.0).args
    return ways.sample(ways.encoded(clip, first, last, len(clip.truth), middle_keyframes=keyframe), clip.seed)


WAYS = {
    "segments": Way("two segments", latents=two_segments),
    **{
        f"guiding-{count}": Way(
            f"… the second guided by {count} frame{'s' * (count > 1)} of the first",
            latents=partial(guided, count=count),
        )
        for count in (1, 2, 3)
    },
    "again": Way("… 3 frames a side sampled again", latents=partial(sampled_again, reach=3, denoise=0.6)),
    "overlapping-2": Way("… overlapping by 2 frames", latents=partial(overlapping, past=2)),
    "inside": Way("one clip, the keyframe inside it, strength 0.95", latents=partial(one_clip, strength=0.95)),
    "one-clip": Way("… at strength 1", latents=one_clip_exactly),
}
