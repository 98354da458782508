"""Samples a sequence of keyframes: one clip after another with the host's models, finished ones taken from disk.

Each clip is a sampling run of its own: one that runs out of memory takes fewer videos a UNet call, the next one begins
with `videos_per_call` again.
"""

import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import comfy.model_management
import comfy.sd
import folder_paths
import torch

from ..common.latents import latent_shape
from ..sampler.conditioning import check_embedding, embedding_width
from ..sampler.guider import check_model
from ..sampler.keyframes import encode_keyframes
from ..sampler.ksampler import check_sampler, dual_direction_ksampler
from ..sampler.memory_limit import check_one_video_fits
from ..sampler.progress import Callback, clip_preview
from ..sampler.unusual_input import remark_on_aspect, remark_on_equal, remark_on_frames
from .fingerprint import CannotBeKnown, fingerprint
from .keyframe_chain import ClipKeyframes, KeyframeChain, sequence_keyframes
from .plan import Plan, clip_seed, plan_sequence
from .request import ClipSettings, request_fingerprint
from .store import FILES_KEPT, FinishedClips
from .video import Video, check_video_fits

logger = logging.getLogger(__name__)

FOLDER = "inbetween_segments"


def sample_sequence(
    model,
    clip_vision,
    vae: comfy.sd.VAE,
    keyframes: torch.Tensor | KeyframeChain,
    frames_per_segment: str,
    loop: bool,
    subdivisions: int,
    resume: bool,
    settings: ClipSettings,
    close_loop: bool = False,
) -> tuple[torch.Tensor, dict]:
    """(images `[frames, height, width, 3]`, LATENT of as many frames) through all keyframes, each shown once.

    `keyframes`: a chain, or `[K, height, width, channels]` in 0…1 with the distances in `frames_per_segment`;
    `subdivisions`: how often each pair of neighbouring frames becomes a clip of its own; `close_loop`: a loop has its
    first frame again at its end.

    Raises ValueError, naming the input, for pictures, numbers or models that cannot be used, before it samples
    anything.
    """
    check_model(model, settings.sampling.guider)
    check_sampler(settings.sampling)
    chain = sequence_keyframes(keyframes, frames_per_segment, loop)
    plan = plan_sequence(chain, loop, close_loop, subdivisions)
    _check_lengths(model, plan, settings)
    _remark_on_input(chain, plan, settings)
    run = _Run(model, clip_vision, vae, settings, plan, resume)
    run.log_what_is_to_do(plan)
    video, clips = Video(vae, plan.frames), []
    for index, segment in enumerate(plan.segments):
        clip_keyframes = segment.keyframes(chain)
        clip = run.segment(index, clip_keyframes)
        if subdivisions:
            clips += run.subdivided(clip, vae.decode(clip.latents), clip_keyframes, subdivisions, (index,))
        else:
            clips.append(clip.latents)
    # Decoded when the UNet is done with.
    for latents in clips:
        video.add(latents)
    images, latents = video.images, _joined(clips)[: plan.frames]
    if close_loop:
        # The very frame that the loop begins with, not the last segment's own version of it.
        images[-1], latents[-1] = images[0], latents[0]
    return images, {"samples": latents}


@dataclass(frozen=True)
class FinishedClip:
    """A clip's latents `[frames, 4, h, w]` from keyframe to keyframe, and the key by which it is known."""

    key: str
    latents: torch.Tensor


class SequenceProgress:
    """Turns the callback of one clip after another into that of one bar, counted in UNet evaluations.

    `clips`: how many there are in all; as many evaluations are expected of those to come as the present one takes.
    """

    def __init__(self, callback: Callback, clips: int):
        self._callback = callback
        self._clips_to_come = clips
        self._done = 0
        self._done_in_this_clip = 0

    def __call__(self, evaluation: int, x0: torch.Tensor, x: torch.Tensor, evaluations: int) -> None:
        self._done_in_this_clip = evaluation + 1
        self._callback(self._done + evaluation, x0, x, self._done + evaluations * self._clips_to_come)

    def clip_done(self) -> None:
        """After every clip, whether it was sampled or was there already."""
        self._done += self._done_in_this_clip
        self._done_in_this_clip = 0
        self._clips_to_come -= 1


class _Run:
    """The clips of one run: taken from disk where they are finished, else sampled and kept there."""

    def __init__(
        self,
        model,
        clip_vision,
        vae: comfy.sd.VAE,
        settings: ClipSettings,
        plan: Plan,
        resume: bool,
    ):
        self._model, self._clip_vision, self._vae, self._settings = model, clip_vision, vae, settings
        self._segments, self._clips = len(plan.segments), plan.clips
        self._steps = self._clips * settings.sampling.sampler.sampler_steps(settings.sampling.guider)
        self._progress = SequenceProgress(clip_preview(model, self._steps), self._clips)
        self._files, self._request = self._finished_clips() if resume else (None, "")
        if self._files:
            self._files.remove_oldest(max(FILES_KEPT, self._clips))

    def log_what_is_to_do(self, plan: Plan) -> None:
        """How much work the whole sequence is."""
        logger.info(
            "Keyframe sequence: %d frames in %d segments, %d clips to sample, %d sampler steps in all, that is "
            "at most %d videos through the UNet. Clips already finished are not sampled again.",
            plan.frames,
            self._segments,
            self._clips,
            self._steps,
            self._settings.sampling.guider.videos_of_an_evaluation() * self._steps,
        )

    def segment(self, index: int, keyframes: ClipKeyframes) -> FinishedClip:
        """The clip of a segment."""
        seed = clip_seed(self._settings.seed, (index,))
        logger.info("Keyframe sequence: segment %d of %d, seed %d.", index + 1, self._segments, seed)
        inside = [keyframes.middle] if keyframes.middle else []
        key = fingerprint([self._request, keyframes.first, keyframes.last, keyframes.frames, index, *inside])
        return self._clip(key, keyframes, (index,))

    def subdivided(
        self,
        clip: FinishedClip,
        decoded: torch.Tensor,
        keyframes: ClipKeyframes,
        subdivisions: int,
        path: tuple[int, ...],
    ) -> list[torch.Tensor]:
        """The latents of the clips that take a clip's place, one for each gap between its `decoded` frames."""
        # The keyframes themselves, not their copies: nothing is lost at them however often it is subdivided.
        pictures, parts = [keyframes.first, *decoded[1:-1].split(1), keyframes.last], []
        for index, (left, right) in enumerate(pairwise(pictures)):
            # A part is known by the clip that it divides: decoding that again may give other pixels in the last digit.
            key, place = fingerprint([clip.key, index]), (*path, index)
            ends = ClipKeyframes(left, right, len(pictures))
            part = self._clip(key, ends, place)
            if subdivisions == 1:
                parts.append(part.latents)
            else:
                decoded_part = self._vae.decode(part.latents)
                parts += self.subdivided(part, decoded_part, ends, subdivisions - 1, place)
        return parts

    def _clip(self, key: str, keyframes: ClipKeyframes, path: tuple[int, ...]) -> FinishedClip:
        latents = None
        if self._files:
            latents = self._files.read(key, latent_shape(keyframes.frames, self._settings.width, self._settings.height))
        if latents is not None:
            latents = latents.to(comfy.model_management.intermediate_device())
        else:
            latents = self._sample(keyframes, clip_seed(self._settings.seed, path))
            _check_finite(latents, path)
            if self._files:
                self._files.write(key, latents)
        self._progress.clip_done()
        return FinishedClip(key, latents)

    def _sample(self, keyframes: ClipKeyframes, seed: int) -> torch.Tensor:
        settings = self._settings
        # One augmentation noise for all clips: neighbours see their common keyframe alike.
        positive, negative, latent = encode_keyframes(
            self._clip_vision,
            self._vae,
            keyframes.first,
            keyframes.last,
            width=settings.width,
            height=settings.height,
            frames=keyframes.frames,
            fps=settings.fps,
            motion_bucket=settings.motion_bucket,
            noise_augmentation=settings.noise_augmentation,
            seed=settings.seed,
            fit=settings.fit,
            separate_noise=settings.separate_noise,
            middle=keyframes.middle,
        )
        check_embedding(positive, "clip_vision", embedding_width(self._model))
        sampled = dual_direction_ksampler(
            self._model,
            positive,
            negative,
            latent,
            seed,
            1.0,
            settings.sampling,
            self._progress,
        )
        return sampled["samples"]

    def _finished_clips(self) -> tuple[FinishedClips | None, str]:
        """Where clips are kept, and what stands for the request; None when it cannot be known to be the same again."""
        try:
            request = request_fingerprint(self._model, self._clip_vision, self._vae, self._settings)
        except CannotBeKnown as error:
            logger.warning(
                "Keyframe sequence: segments are not kept in this run, and finished ones not taken up: whether the "
                "model is unchanged cannot be known, because of %s.",
                error,
            )
            return None, ""
        return FinishedClips(Path(folder_paths.get_output_directory(), FOLDER)), request


def _joined(clips: list[torch.Tensor]) -> torch.Tensor:
    """The latents of neighbouring clips as one; the frame that two have in common stands in it once."""
    return torch.cat([clip[min(index, 1) :] for index, clip in enumerate(clips)])


def _check_lengths(model, plan: Plan, settings: ClipSettings) -> None:
    """Raises ValueError, naming the input, when a segment is too short or something too long for the memory."""
    check_video_fits(plan, settings.width, settings.height)
    longest = latent_shape(max(segment.frames for segment in plan.segments), settings.width, settings.height)
    check_one_video_fits(model, torch.Size(longest), "width", "width and height")


def _check_finite(latents: torch.Tensor, path: tuple[int, ...]) -> None:
    if not latents.isfinite().all():
        raise ValueError(
            f"model: segment {path[0] + 1} came out with NaN or infinite numbers and is not kept. Queue "
            "again: with resume on, finished segments are taken up. If it happens again, the model or its "
            "number format is at fault."
        )


def _remark_on_input(chain: KeyframeChain, plan: Plan, settings: ClipSettings) -> None:
    for keyframe in (each for each in chain.keyframes if each.strength > 0):
        remark_on_aspect(keyframe.picture, settings.width, settings.height, settings.fit, "keyframes")
    for segment in plan.segments:
        remark_on_frames(segment.frames, plan.frames_input.name)
        ends = segment.keyframes(chain)
        if not ends.middle:
            remark_on_equal(ends.first, ends.last, "keyframes")
