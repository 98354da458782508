"""Samples a sequence of keyframes: clip after clip with the host's models, finished ones taken from disk.

One progress bar over all clips of a sequence.
"""

import dataclasses
import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import comfy.cli_args
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.samplers
import comfyui_version
import folder_paths
import torch

from ..sampler.conditioning import check_embedding, embedding_width
from ..sampler.guider import check_model
from ..sampler.keyframes import encode_keyframes, one_picture
from ..sampler.ksampler import check_sampler, dual_direction_ksampler, noise_levels
from ..sampler.memory_limit import check_one_video_fits
from ..sampler.progress import Callback, clip_preview
from ..sampler.settings import GuiderSettings, SamplerSettings
from ..sampler.unusual_input import remark_on_aspect, remark_on_equal, remark_on_frames
from .fingerprint import CannotBeKnown, fingerprint, model_fingerprint
from .frames import Frames, check_frames_fit
from .guiding_frames import FinishedClip, Guides, check_guiding_frames, guides_of, sampled_beside
from .plan import Segment, clip_seed, clips_to_sample, plan_segments, video_frames
from .store import FILES_KEPT, FinishedClips

logger = logging.getLogger(__name__)

FOLDER = "inbetween_segments"
# To be raised whenever the same request gives another video than before.
_VERSION = 2


@dataclass(frozen=True)
class ClipSettings:
    """What a user chooses for every clip of a sequence: Encode Keyframes and Dual-Direction KSampler in one."""

    width: int
    height: int
    fps: int
    motion_bucket: int
    noise_augmentation: float
    fit: str
    seed: int
    sampler: SamplerSettings
    directions: GuiderSettings


def sample_sequence(
    model,
    clip_vision,
    vae,
    keyframes: torch.Tensor,
    frames_per_segment: str,
    loop: bool,
    subdivisions: int,
    resume: bool,
    settings: ClipSettings,
    guiding_frames: int = 0,
) -> tuple[torch.Tensor, dict]:
    """(images `[frames, height, width, 3]`, LATENT of as many frames) through all keyframes, each shown once.

    `keyframes`: `[K, height, width, channels]`; `subdivisions`: passes of in-betweens of in-betweens;
    `guiding_frames`: how many of a segment's frames guide the next. Raises ValueError, naming the input, for pictures,
    numbers or models that cannot be used, before anything is sampled.
    """
    check_model(model, settings.directions)
    check_sampler(settings.sampler.sampler_name, settings.sampler.scheduler, settings.directions.alternating)
    pictures = _pictures(keyframes, loop)
    segments = plan_segments(len(pictures), frames_per_segment, loop)
    frames = _check_length(segments, subdivisions, loop, settings)
    check_guiding_frames(guiding_frames, segments)
    longest = max(
        segment.frames + guiding_frames * sampled_beside(index, len(segments), loop)
        for index, segment in enumerate(segments)
    )
    check_one_video_fits(model, (longest, 4, settings.height // 8, settings.width // 8), "width", "width and height")
    _remark_on_sequence(pictures, segments, settings.width, settings.height, settings.fit)
    run = _SequenceRun(model, clip_vision, vae, settings, segments, subdivisions, resume)
    if guiding_frames and len(segments) > 1:
        logger.info(
            "Keyframe sequence: every segment but the first is sampled over %d guiding frames more, the last "
            "one of a loop over twice as many.",
            guiding_frames,
        )
    video, clips, finished = Frames(vae, frames), [], []
    for index, segment in enumerate(segments):
        logger.info(
            "Keyframe sequence: segment %d of %d, seed %d.",
            index + 1,
            len(segments),
            clip_seed(settings.seed, (index,)),
        )
        guides = guides_of(index, finished, len(segments), guiding_frames, loop)
        first, last = pictures[segment.first], pictures[segment.last]
        clip = run.segment(index, first, last, segment.frames, guides)
        if subdivisions:
            decoded = vae.decode(clip.latents)
            clips += run.subdivided(clip, decoded, first, last, segment.frames, subdivisions, (index,))
        else:
            clips.append(clip.latents)
            # What guides the next one is decoded now, the others when the UNet is done with.
            decoded = video.add(clip.latents) if guiding_frames and index + 1 < len(segments) else None
        finished.append(clip.with_guiding_pictures(decoded, guiding_frames))
        del decoded
    for latents in clips[video.clips :]:
        video.add(latents)
    latents = torch.cat([clip[min(index, 1) :] for index, clip in enumerate(clips)])[:frames]
    return video.images, {"samples": latents}


class _SequenceRun:
    """The state of one run: models, progress, and the files of finished clips."""

    def __init__(
        self, model, clip_vision, vae, settings: ClipSettings, segments: list[Segment], subdivisions: int, resume: bool
    ):
        self._model, self._clip_vision, self._vae, self._settings = model, clip_vision, vae, settings
        clips = sum(clips_to_sample(segment.frames, subdivisions) for segment in segments)
        evaluations = clips * settings.sampler.sampler_steps(settings.directions)
        self._progress = SequenceProgress(clip_preview(model, evaluations), clips)
        self._files = FinishedClips(Path(folder_paths.get_output_directory(), FOLDER)) if resume else None
        self._request = self._fingerprint_of_request() if resume else ""
        if self._files:
            self._files.remove_oldest(max(FILES_KEPT, clips))
        logger.info(
            "Keyframe sequence: %d frames in %d segments, %d clips to sample, %d sampler steps in all, that is "
            "at most %d videos through the UNet. Clips already finished are not sampled again.",
            video_frames(segments, subdivisions, False),
            len(segments),
            clips,
            evaluations,
            settings.directions.videos_of_an_evaluation() * evaluations,
        )

    def segment(self, index: int, first: torch.Tensor, last: torch.Tensor, frames: int, guides: Guides) -> FinishedClip:
        """The clip between two keyframes `[1, height, width, 3]`."""
        key = fingerprint([self._request, first, last, frames, index, *guides.keys])
        return self._clip(key, first, last, frames, (index,), guides)

    def subdivided(
        self,
        clip: FinishedClip,
        decoded: torch.Tensor,
        first: torch.Tensor,
        last: torch.Tensor,
        frames: int,
        subdivisions: int,
        path: tuple[int, ...],
    ) -> list[torch.Tensor]:
        """The latents of the clips that take a clip's place, one for each gap between its `decoded` frames."""
        # The keyframes themselves, not their copies: nothing is lost at them however often it is subdivided.
        pictures, parts = [first, *decoded[1:-1].split(1), last], []
        for index, (left, right) in enumerate(pairwise(pictures)):
            # A part is known by the clip that it divides: decoding that again may give other pixels in the last digit.
            key, place = fingerprint([clip.key, index]), (*path, index)
            part = self._clip(key, left, right, frames, place, Guides(0))
            parts += (
                [part.latents]
                if subdivisions == 1
                else self.subdivided(part, self._vae.decode(part.latents), left, right, frames, subdivisions - 1, place)
            )
        return parts

    def _clip(
        self, key: str, first: torch.Tensor, last: torch.Tensor, frames: int, path: tuple[int, ...], guides: Guides
    ) -> FinishedClip:
        latents = self._finished(key, frames) if self._files else None
        if latents is None:
            latents = self._sample(first, last, frames, clip_seed(self._settings.seed, path), guides)
            _check_finite(latents, path)
            if self._files:
                self._files.write(key, latents)
        self._progress.clip_done()
        return FinishedClip(key, latents)

    def _finished(self, key: str, frames: int) -> torch.Tensor | None:
        latents = self._files.read(key, (frames, 4, self._settings.height // 8, self._settings.width // 8))
        return None if latents is None else latents.to(comfy.model_management.intermediate_device())

    def _sample(self, first: torch.Tensor, last: torch.Tensor, frames: int, seed: int, guides: Guides) -> torch.Tensor:
        settings = self._settings
        # A guided clip begins and ends at its neighbours' frames, as they are seen in the video.
        if guides.before is not None:
            first = guides.before.picture_before_end
        if guides.after is not None:
            last = guides.after.picture_after_begin
        # One augmentation noise for all clips: neighbours see their common keyframe alike.
        positive, negative, latent = encode_keyframes(
            self._clip_vision,
            self._vae,
            first,
            last,
            settings.width,
            settings.height,
            guides.frames(frames),
            settings.fps,
            settings.motion_bucket,
            settings.noise_augmentation,
            settings.seed,
            settings.fit,
        )
        check_embedding(positive, "clip_vision", embedding_width(self._model))
        sampled = dual_direction_ksampler(
            self._model,
            positive,
            negative,
            guides.held(latent["samples"]),
            seed,
            1.0,
            settings.sampler,
            settings.directions,
            self._progress,
        )
        return guides.without_extra(sampled["samples"])

    def _fingerprint_of_request(self) -> str:
        settings, model = self._settings, self._model
        # In whichever order the work is done, the result is the same.
        directions = dataclasses.replace(settings.directions, videos_per_call="")
        sampler = settings.sampler
        try:
            return fingerprint(
                [
                    _VERSION,
                    _host_as_started(),
                    dataclasses.replace(settings, directions=directions),
                    comfy.samplers.sampler_object(sampler.sampler_name),
                    noise_levels(model, sampler.sampler_name, sampler.scheduler, sampler.steps, 1.0),
                    model_fingerprint(model, self._clip_vision, self._vae),
                ]
            )
        except CannotBeKnown as error:
            self._files = None
            logger.warning(
                "Keyframe sequence: finished segments are neither kept nor taken up in this run: whether "
                "the model is the same again cannot be known, because of %s.",
                error,
            )
            return ""


def _host_as_started() -> list[object]:
    """The host's version, and those of its launch options that change numbers and leave no trace in the models."""
    options = comfy.cli_args.args
    return [
        comfyui_version.__version__,
        comfy.ldm.modules.attention.optimized_attention,
        options.fast,
        options.force_upcast_attention,
        options.dont_upcast_attention,
        options.deterministic,
    ]


def _pictures(keyframes: torch.Tensor, loop: bool) -> list[torch.Tensor]:
    pictures = [one_picture(picture, "keyframes") for picture in keyframes.split(1)]
    if loop and len(pictures) > 1 and torch.equal(pictures[0], pictures[-1]):
        logger.info(
            "Keyframe sequence: the last keyframe of the loop is the first again and is left out; the loop "
            "leads back to the first by itself."
        )
        pictures.pop()
    return pictures


def _check_length(segments: list[Segment], subdivisions: int, loop: bool, settings: ClipSettings) -> int:
    if subdivisions and min(segment.frames for segment in segments) < 3:
        raise ValueError(
            "frames_per_segment: expected at least 3 frames with subdivisions, found 2, which has nothing "
            "between its keyframes. Raise it, or set subdivisions to 0."
        )
    return check_frames_fit(segments, subdivisions, loop, settings.width, settings.height)


def _check_finite(latents: torch.Tensor, path: tuple[int, ...]) -> None:
    if not latents.isfinite().all():
        raise ValueError(
            f"model: segment {path[0] + 1} came out with NaN or infinite numbers and is not kept. Queue "
            "again: with resume on, finished segments are taken up. If it comes again, the model or its "
            "number format is at fault."
        )


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


def _remark_on_sequence(
    pictures: list[torch.Tensor], segments: list[Segment], width: int, height: int, fit: str
) -> None:
    """The remarks on what Inbetween Keyframe Sequence was given; a batch has one aspect."""
    remark_on_aspect(pictures[0], width, height, fit, "keyframes")
    for segment in segments:
        remark_on_frames(segment.frames, "frames_per_segment")
        remark_on_equal(pictures[segment.first], pictures[segment.last], "keyframes")
