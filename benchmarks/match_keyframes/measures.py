"""Videos with their keyframes matched in several ways, and how they compare with what the model made.

Videos here are `[frames, 3, h, w]` in 0…1; differences are root mean squares in 8-bit levels (0…255).
"""

import argparse
import dataclasses
import logging
import math
from collections.abc import Iterator

import numpy as np
import torch

from ...nodes import InbetweenMatchKeyframes
from ...sequence.match_keyframes import match_keyframes
from ...weights.files import read_metadata
from ..common.clips import HeldOutClip, eight_bit, world_clip
from ..common.methods import Method, Methods
from ..common.metrics import ColorVideoVDP, frame_errors, mean_at
from ..common.report import cell, difference, interval, table

KINDS = {
    "clip": "one clip",
    "joined": "two clips, joined",
}
FADE = 12
WAYS = {
    "truth": "the true frames",
    "made": "as made",
    "1": "keyframes replaced, nothing else (`frames` 1)",
    f"{FADE}": f"`frames` {FADE}",
    "everywhere": f"`frames` {FADE}, detail kept where things moved, too",
}
MEASURES = {
    "keyframes": "keyframe error, levels",
    "step": "step at a keyframe, levels",
    "step_error": "its difference to the true step, levels",
    "beside": "error beside a keyframe, levels",
    "between": "error of all in-betweens, levels",
    "cvvdp": "ColorVideoVDP, JOD",
}


def measured_clips(options: argparse.Namespace) -> dict[str, dict[str, list[dict[str, float]]]]:
    """{kind of video: {way of matching: [{measure: value} of each clip]}}."""
    logging.getLogger().setLevel(logging.ERROR)
    color_video_vdp = None if options.without_cvvdp else ColorVideoVDP()
    found = {kind: {way: [] for way in WAYS} for kind in KINDS}
    preset = {"sampled": Method(options.preset, {"preset": options.preset})}
    with Methods(options.checkpoint, {"rotated": options.backward_motion}, {}, preset) as methods:
        for number in range(options.clips):
            for kind, clip, places, video in _videos(methods, options, options.first_seed + number):
                found[kind]["truth"].append(measures(clip.truth, clip.truth, places, None))
                for way, matched in _matched(video, clip.truth, places).items():
                    found[kind][way].append(measures(eight_bit(matched), clip.truth, places, color_video_vdp))
            print(f"{number + 1} of {options.clips} clips", flush=True)
    return found


def _videos(
    methods: Methods, options: argparse.Namespace, seed: int
) -> Iterator[tuple[str, HeldOutClip, list[int], torch.Tensor]]:
    """(kind, clip, places of its keyframes, video) of one seed of the world."""
    clip = world_clip(seed, options.frames, options.size)
    last = options.frames - 1
    yield "clip", clip, [0, last], methods.run("sampled", clip).frames
    long = world_clip(seed, 2 * last + 1, options.size)
    halves = (dataclasses.replace(long, truth=truth) for truth in (long.truth[: last + 1], long.truth[last:]))
    before, after = (methods.run("sampled", half).frames for half in halves)
    # As in Inbetween Keyframe Sequence, their common frame is the first clip's.
    yield "joined", long, [0, last, 2 * last], torch.cat([before, after[1:]])


def _matched(video: torch.Tensor, truth: torch.Tensor, places: list[int]) -> dict[str, torch.Tensor]:
    images = video.movedim(1, -1).contiguous()
    keyframes = truth[places].movedim(1, -1).contiguous()
    length = str(places[1] + 1)
    found = {"made": images}
    for fade in (1, FADE):
        (found[f"{fade}"],) = InbetweenMatchKeyframes.execute(images, fade, "crop", length, keyframes=keyframes).args
    pictures = dict(zip(places, keyframes.split(1), strict=True))
    found["everywhere"] = match_keyframes(images, pictures, FADE, tolerance=math.inf)
    return {way: each.movedim(-1, 1) for way, each in found.items()}


def measures(
    video: torch.Tensor, truth: torch.Tensor, places: list[int], color_video_vdp: ColorVideoVDP | None
) -> dict[str, float]:
    """The measures of one video whose keyframes stand at `places`.

    A step is the difference of a keyframe to the frame before or behind it.
    """
    errors = frame_errors(video, truth)
    steps = frame_errors(video[1:], video[:-1])
    step_errors = frame_errors(video[1:] - video[:-1], truth[1:] - truth[:-1])
    at = sorted({step for place in places for step in (place - 1, place) if 0 <= step < len(steps)})
    beside = sorted({frame for step in at for frame in (step, step + 1)} - set(places))
    return {
        "keyframes": mean_at(errors, places),
        "step": mean_at(steps, at),
        "step_error": mean_at(step_errors, at),
        "beside": mean_at(errors, beside),
        "between": float(np.delete(errors, places).mean()),
        "cvvdp": math.nan if color_video_vdp is None else color_video_vdp(video, truth),
    }


def summary(found: dict[str, dict[str, list[dict]]], options: argparse.Namespace) -> dict:
    """Means with intervals for each kind of video and way, and of each way minus the video as made, clip by clip."""
    result: dict = {name: getattr(options, name) for name in ("clips", "frames", "size", "preset", "first_seed")}
    result |= {"checkpoint": options.checkpoint.name}
    result |= {"trained": read_metadata(options.checkpoint).get("trained", "no")}
    for kind, ways in found.items():
        values = {way: {measure: [row[measure] for row in rows] for measure in MEASURES} for way, rows in ways.items()}
        result[kind] = {
            way: {
                measure: {
                    **interval(each[measure]),
                    "minus_made": difference(each[measure], values["made"][measure]),
                }
                for measure in MEASURES
            }
            for way, each in values.items()
        }
    return result


def markdown(result: dict) -> str:
    """A table for each kind of video; a difference is bold where its interval does not hold 0."""
    about = (
        f"{result['clips']} held-out clips of {result['frames']} frames (joined: {2 * result['frames'] - 1}), "
        f"{result['size']}×{result['size']}, preset `{result['preset']}`, model trained: {result['trained']}. "
        "Means and 95 % intervals; *minus* is the difference to the video as made, clip by clip.\n"
    )
    parts = [about]
    for kind, title in KINDS.items():
        rows = [
            [
                WAYS[way],
                *(cell(each[measure]) for measure in MEASURES),
                "–" if way in ("truth", "made") else cell(each["cvvdp"]["minus_made"], signed=True),
            ]
            for way, each in result[kind].items()
        ]
        parts.append(f"{title[0].upper()}{title[1:]}:\n\n{table([*MEASURES.values(), 'minus, JOD'], rows)}")
    return "\n".join(parts)
