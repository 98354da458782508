"""Speed at the keyframe that two segments share, with and without guiding frames, on held-out clips of known motion.

Each clip of the small world is cut at its middle frame into two segments of Inbetween Keyframe Sequence. Writes to DIR:
sequence.md (a table with means and 95 % intervals) and sequence.json; prints what preview, contact sheet and report
cost beside the sampling.

    python dev.py benchmark sequence [--clips 24] [--out DIR] [--guiding 0 1 2 3]
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import folder_paths
import torch
from generative_inbetweening.benchmarks.common.bootstrap import difference, interval
from generative_inbetweening.benchmarks.quality.clips import HeldOutClip, world_clip
from generative_inbetweening.benchmarks.quality.methods import (
    FPS,
    MOTION_BUCKET,
    NOISE_AUGMENTATION,
    Methods,
    SamplingSettings,
)
from generative_inbetweening.benchmarks.quality.plan import DEMO
from generative_inbetweening.benchmarks.sequence.costs import costs
from generative_inbetweening.benchmarks.sequence.measures import (
    mean_at,
    picture_errors,
    place_errors,
    places,
    speed_jump,
    true_places,
)
from generative_inbetweening.nodes import InbetweenKeyframeSequence, InbetweenLoadBackwardMotion
from generative_inbetweening.sampler.settings import DEFAULTS
from generative_inbetweening.weights.files import read_metadata

FIRST_SEED = 2_100_000
"""Seeds of the world's test split from here on serve this benchmark alone."""
MEASURES = {
    "jump": "jump of speed over 2 frames a side, px/frame",
    "jump_1": "over 1 frame a side",
    "motion_error": "motion error between keyframes, px",
    "keyframe_place": "place at the keyframes, px",
    "keyframe_picture": "picture at the keyframes, levels",
}
CONTROLS = {"truth": "true motion", "reconstruction": "true frames through the VAE"}


def main() -> int:
    """Exit status 0."""
    options = parse()
    logging.getLogger().setLevel(logging.ERROR)
    settings = SamplingSettings(steps=options.steps, reinjections=options.reinjections)
    methods = Methods(options.checkpoint, {"rotated": options.backward_motion}, settings)
    try:
        (model,) = InbetweenLoadBackwardMotion.execute(methods.base, methods.files["rotated"], 1.0).args
        rows = {name: [] for name in [*CONTROLS, *(f"guiding {count}" for count in options.guiding)]}
        for number in range(options.clips):
            clip = world_clip(number, options.frames, options.size, FIRST_SEED)
            for name, row in measured(methods, model, clip, options).items():
                rows[name].append(row)
            print(f"{number + 1} of {options.clips} clips", flush=True)
        result = summary(rows, options)
        result["costs"] = costs(model, methods.clip_vision, methods.vae, clip.truth, options.steps)
    finally:
        methods.close()
    write(result, options.out)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="sequence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--clips", type=int, default=24, help="held-out clips (default: 24)")
    add("--guiding", type=int, nargs="+", default=[0, 1, 2, 3], help="numbers of guiding frames (default: 0 1 2 3)")
    add("--out", type=Path, default=Path("benchmark_output") / "sequence", help="folder for the results")
    add("--frames", type=int, default=15, help="frames of a clip, odd (default: 15)")
    add("--size", type=int, default=64, help="side of the pictures in pixels (default: 64)")
    add("--steps", type=int, default=15, help="sampling steps (default: 15)")
    add("--reinjections", type=int, default=1, help="re-injections on the first half of the steps (default: 1)")
    add("--fusion", default="weighted", help="average or weighted (default: weighted)")
    add("--checkpoint", type=Path, default=DEMO / "demo_svd.safetensors", help="SVD model")
    add(
        "--backward-motion",
        type=Path,
        default=DEMO / "demo_backward_motion.safetensors",
        help="its backward-motion file",
    )
    options = parser.parse_args()
    if options.frames < 5 or options.frames % 2 == 0:
        parser.error("--frames: an odd number, 5 or more, is expected, since the clip is cut in the middle")
    return options


def measured(methods: Methods, model, clip: HeldOutClip, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """{row of the table: {measure: value}} of one clip."""
    reconstruction = methods.run("reconstruction", clip).frames
    found = {
        "truth": row(true_places(clip.world), clip.truth, clip),
        "reconstruction": row(places(reconstruction, clip.world), reconstruction, clip),
    }
    # The first segment is the same for every number of guiding frames, and is taken from here the second time.
    before = folder_paths.get_output_directory()
    with tempfile.TemporaryDirectory(prefix="sequence-") as folder:
        folder_paths.set_output_directory(folder)
        try:
            for count in options.guiding:
                frames = sequence(methods, model, clip, count, options)
                found[f"guiding {count}"] = row(places(frames, clip.world), frames, clip)
        finally:
            folder_paths.set_output_directory(before)
    return found


def sequence(methods: Methods, model, clip: HeldOutClip, guiding: int, options: argparse.Namespace) -> torch.Tensor:
    """The clip made from its first, middle and last frame, in 0…1, `[frames, 3, h, w]`."""
    keyframes = clip.truth[keyframes_of(clip)].movedim(1, -1).contiguous()
    height, width = clip.truth.shape[-2:]
    settings = {
        **DEFAULTS,
        "width": width,
        "height": height,
        "fps": FPS,
        "motion_bucket": MOTION_BUCKET,
        "noise_augmentation": NOISE_AUGMENTATION,
        "fit": "crop",
        "seed": clip.seed,
        "steps": options.steps,
        "fusion": options.fusion,
        "reinjections": options.reinjections,
        "videos_per_call": "2",
    }
    with torch.inference_mode():
        images, _ = InbetweenKeyframeSequence.execute(
            model,
            methods.clip_vision,
            methods.vae,
            keyframes,
            str(len(clip.truth) // 2 + 1),
            False,
            subdivisions=0,
            resume=True,
            guiding_frames=guiding,
            **settings,
        ).args
    return images.movedim(-1, 1).float().clamp(0, 1).clone()


def keyframes_of(clip: HeldOutClip) -> list[int]:
    """Positions of the first, the shared and the last keyframe."""
    last = len(clip.truth) - 1
    return [0, last // 2, last]


def row(centres, frames: torch.Tensor, clip: HeldOutClip) -> dict[str, float]:
    """The measures of one clip."""
    keyframes = keyframes_of(clip)
    between = [frame for frame in range(len(clip.truth)) if frame not in keyframes]
    errors = place_errors(centres, clip.world)
    return {
        "jump": speed_jump(centres, keyframes[1], 2),
        "jump_1": speed_jump(centres, keyframes[1], 1),
        "motion_error": mean_at(errors, between),
        "keyframe_place": mean_at(errors, keyframes),
        "keyframe_picture": mean_at(picture_errors(frames, clip.truth), keyframes),
    }


def summary(rows: dict[str, list[dict]], options: argparse.Namespace) -> dict:
    """Means with intervals of every row, and of each number of guiding frames minus none, clip by clip."""
    values = {
        name: {measure: [each[measure] for each in found] for measure in MEASURES} for name, found in rows.items()
    }
    none = values.get("guiding 0")
    return {
        "clips": options.clips,
        "frames": options.frames,
        "size": options.size,
        "steps": options.steps,
        "reinjections": options.reinjections,
        "fusion": options.fusion,
        "checkpoint": options.checkpoint.name,
        "trained": read_metadata(options.checkpoint).get("trained", "no"),
        "rows": {name: {measure: interval(found[measure]) for measure in MEASURES} for name, found in values.items()},
        "minus_none": {
            name: {measure: difference(found[measure], none[measure]) for measure in MEASURES}
            for name, found in values.items()
            if none and name.startswith("guiding ") and found != none
        },
    }


def write(result: dict, out: Path) -> None:
    """sequence.json and sequence.md; the table is printed, too."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "sequence.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    text = table(result)
    (out / "sequence.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nResults: {out}  ({time.strftime('%Y-%m-%d %H:%M')})")


def table(result: dict) -> str:
    """Markdown; a difference is bold where its interval does not hold 0."""
    lines = [
        (
            f"{result['clips']} held-out clips of {result['frames']} frames in two segments, "
            f"{result['size']}×{result['size']}, {result['steps']} steps, {result['fusion']} fusion, model trained: "
            f"{result['trained']}. Means and 95 % intervals."
        ),
        "",
        "| | " + " | ".join(MEASURES.values()) + " |",
        "|---" * (1 + len(MEASURES)) + "|",
    ]
    lines += [
        f"| {CONTROLS.get(name, name + ' frames')} | " + " | ".join(_cell(each[measure]) for measure in MEASURES) + " |"
        for name, each in result["rows"].items()
    ]
    lines += [
        f"| {name} minus 0 | " + " | ".join(_cell(each[measure], "+") for measure in MEASURES) + " |"
        for name, each in result["minus_none"].items()
    ]
    lines += ["", *(f"- {name}: {100 * share:.1f} % of the sampling time" for name, share in result["costs"].items())]
    return "\n".join(lines) + "\n"


def _cell(value: dict, sign: str = "") -> str:
    if value["mean"] is None:
        return "–"
    text = f"{value['mean']:{sign}.2f} [{value['low']:{sign}.2f}, {value['high']:{sign}.2f}]"
    return f"**{text}**" if sign and value["low"] * value["high"] > 0 else text


if __name__ == "__main__":
    sys.exit(main())
