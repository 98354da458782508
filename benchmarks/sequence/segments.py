"""Clips of the small world made in two segments, and how the speed changes at the keyframe between them.

Places are pixels, as demo/world/tracker.py finds the main object; NaN where less than half of it can be seen.
"""

import argparse
import logging
import tempfile

import folder_paths
import numpy as np
import torch

from ...demo.world.tracker import motion_errors, seen, track
from ...nodes import InbetweenKeyframeSequence
from ...sampler.settings import DEFAULT_PRESET, chosen_settings
from ...weights.files import read_metadata
from ..common.clips import HeldOutClip, world_clips
from ..common.methods import FPS, MOTION_BUCKET, NOISE_AUGMENTATION, Methods
from ..common.metrics import frame_errors, mean_at
from ..common.report import cell, difference, interval, table

MEASURES = {
    "jump": "jump of speed over 2 frames a side, px/frame",
    "jump_1": "over 1 frame a side",
    "motion_error": "motion error between keyframes, px",
    "keyframe_place": "place at the keyframes, px",
    "keyframe_picture": "picture at the keyframes, levels",
}
CONTROLS = {"truth": "true motion", "reconstruction": "true frames through the VAE"}


def measured_clips(options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """{row of the table: [{measure: value} of each clip]}."""
    logging.getLogger().setLevel(logging.ERROR)
    rows = {name: [] for name in [*CONTROLS, *(f"guiding {count}" for count in options.guiding)]}
    with Methods(options.checkpoint, {"rotated": options.backward_motion}, {}, {}) as methods:
        clips = world_clips(options.first_seed, options.clips, options.frames, options.size)
        for number, clip in enumerate(clips, 1):
            for name, frames in videos(methods, clip, options).items():
                # The truth is where the world says, not where the tracker finds it.
                centres = clip.world.motion.centre[0] if name == "truth" else track(frames, clip.world).centre
                rows[name].append(measures(centres, frames, clip))
            print(f"{number} of {options.clips} clips", flush=True)
    return rows


def videos(methods: Methods, clip: HeldOutClip, options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """{row of the table: its frames}."""
    found = {name: methods.run(name, clip).frames for name in CONTROLS}
    # The first segment is the same for every number of guiding frames, and is taken from here the second time.
    before = folder_paths.get_output_directory()
    with tempfile.TemporaryDirectory(prefix="sequence-") as folder:
        folder_paths.set_output_directory(folder)
        try:
            for count in options.guiding:
                found[f"guiding {count}"] = sequence(methods, clip, count, options)
        finally:
            folder_paths.set_output_directory(before)
    return found


def sequence(methods: Methods, clip: HeldOutClip, guiding: int, options: argparse.Namespace) -> torch.Tensor:
    """The clip made from its first, middle and last frame, in 0…1, `[frames, 3, h, w]`."""
    keyframes = clip.truth[keyframes_of(clip)].movedim(1, -1).contiguous()
    height, width = clip.truth.shape[-2:]
    inputs = {
        "width": width,
        "height": height,
        "fps": FPS,
        "motion_bucket": MOTION_BUCKET,
        "noise_augmentation": NOISE_AUGMENTATION,
        "fit": "crop",
        "seed": clip.seed,
        "preset": DEFAULT_PRESET,
        "subdivisions": 0,
        "resume": True,
        "guiding_frames": guiding,
        "settings": chosen_settings(
            videos_per_call="2", steps=options.steps, fusion=options.fusion, reinjections=options.reinjections
        ),
    }
    length = str(len(clip.truth) // 2 + 1)
    with torch.inference_mode():
        images, _ = InbetweenKeyframeSequence.execute(
            methods.model(), methods.clip_vision, methods.vae, keyframes, length, False, **inputs
        ).args
    return images.movedim(-1, 1).float().clamp(0, 1).clone()


def keyframes_of(clip: HeldOutClip) -> list[int]:
    """Positions of the first, the shared and the last keyframe."""
    last = len(clip.truth) - 1
    return [0, last // 2, last]


def measures(centres: torch.Tensor, frames: torch.Tensor, clip: HeldOutClip) -> dict[str, float]:
    """The measures of one video whose object is at `centres`, `[frames, 2]`."""
    keyframes = keyframes_of(clip)
    between = [frame for frame in range(len(clip.truth)) if frame not in keyframes]
    errors, places = motion_errors(centres, clip.world).numpy(), seen(centres, clip.world).numpy()
    return {
        "jump": speed_jump(places, keyframes[1], 2),
        "jump_1": speed_jump(places, keyframes[1], 1),
        "motion_error": mean_at(errors, between),
        "keyframe_place": mean_at(errors, keyframes),
        "keyframe_picture": mean_at(frame_errors(frames, clip.truth), keyframes),
    }


def speed_jump(places: np.ndarray, keyframe: int, window: int) -> float:
    """|v after − v before| in pixels a frame; v: mean velocity over `window` frames on that side of the keyframe."""
    before = (places[keyframe] - places[keyframe - window]) / window
    after = (places[keyframe + window] - places[keyframe]) / window
    return float(np.linalg.norm(after - before))


def summary(rows: dict[str, list[dict]], options: argparse.Namespace) -> dict:
    """Means with intervals of every row, and of each number of guiding frames minus none, clip by clip."""
    values = {
        name: {measure: [each[measure] for each in found] for measure in MEASURES} for name, found in rows.items()
    }
    none = values.get("guiding 0")
    kept = ("clips", "frames", "size", "steps", "reinjections", "fusion")
    return {
        **{name: getattr(options, name) for name in kept},
        "checkpoint": options.checkpoint.name,
        "trained": read_metadata(options.checkpoint).get("trained", "no"),
        "rows": {name: {measure: interval(found[measure]) for measure in MEASURES} for name, found in values.items()},
        "minus_none": {
            name: {measure: difference(found[measure], none[measure]) for measure in MEASURES}
            for name, found in values.items()
            if none and name.startswith("guiding ") and found is not none
        },
    }


def markdown(result: dict) -> str:
    """A table; a difference is bold where its interval does not hold 0."""
    rows = [
        [CONTROLS.get(name, f"{name} frames"), *(cell(each[measure]) for measure in MEASURES)]
        for name, each in result["rows"].items()
    ]
    rows += [
        [f"{name} minus 0", *(cell(each[measure], signed=True) for measure in MEASURES)]
        for name, each in result["minus_none"].items()
    ]
    return (
        f"{result['clips']} held-out clips of {result['frames']} frames in two segments, "
        f"{result['size']}×{result['size']}, {result['steps']} steps, {result['fusion']} fusion, model trained: "
        f"{result['trained']}. Means and 95 % intervals.\n\n"
    ) + table(MEASURES.values(), rows)
