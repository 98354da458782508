"""A whole clip: sampling, previews, report and contact sheet, and what a clip costs over its number of frames."""

import io
import statistics
import time
from pathlib import Path

import comfy.samplers
import comfy.utils
import numpy as np
import torch
from comfy.cli_args import LatentPreviewMethod, args
from PIL import Image, ImageOps

from ...inspection.plots import Line, Plot, draw_plots
from ...inspection.report import report
from ...inspection.sheet import contact_sheet
from ...sampler.progress import clip_preview
from .contestants import (
    clip_inputs,
    finish,
    guider_within_sampling,
    host_guiders,
    our_guider,
    our_model,
    timed,
    timed_in_turn,
)

# Those of a clip with the preset `fast`: the share of what is done once a clip is largest there.
EVALUATIONS = 7
FRAMES = (8, 14, 25, 50)


def whole_clip(unet: dict[str, torch.Tensor], frames: int, size: int, repeats: int) -> dict:
    """Median seconds of sampling a clip, beside the host's four videos, and the shares of what is beside the sampling.

    All are taken in one round after the other; the shares are of the sampling without previews.
    """
    guider, others = our_guider(our_model(unet), frames, size), host_guiders(unet, frames, size)
    pictures = torch.rand(frames, size, size, 3, generator=torch.Generator().manual_seed(1))
    seconds: dict[str, list[float]] = {"clip": [], "host": [], "previews": [], "report": [], "sheet": []}
    previews = Previews(guider.model_patcher)
    for round_number in range(repeats + 1):
        for name, work in (
            ("clip", lambda: sample(guider, frames, size)),
            ("host", lambda: [sample(each, frames, size) for each in others]),
            ("previews", lambda: sample(guider, frames, size, previews)),
            ("report", lambda: report(pictures, [0, frames - 1])),
            ("sheet", lambda: contact_sheet(pictures, 0, [0, frames - 1])),
        ):
            previews.seconds = 0.0
            taken = timed(work)
            if round_number:
                seconds[name].append(previews.seconds or taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[one], seconds[other]))

    return {
        "clip_evaluations": EVALUATIONS,
        "clip_seconds": medians["clip"],
        "clip_time_over_host": ratio("clip", "host"),
        "preview_seconds": medians["previews"],
        "report_seconds": medians["report"],
        "preview_share": ratio("previews", "clip"),
        "report_share": ratio("report", "clip"),
        "sheet_share": ratio("sheet", "clip"),
    }


def sample(guider, frames: int, size: int, callback=None) -> torch.Tensor:
    """A clip of so many evaluations: Euler on Karras's noise levels."""
    latent = torch.zeros_like(clip_inputs(frames, size)[0])
    sigmas = comfy.samplers.calculate_sigmas(
        guider.model_patcher.get_model_object("model_sampling"), "karras", EVALUATIONS
    )
    with torch.inference_mode():
        return guider.sample(
            torch.randn(latent.shape, generator=torch.Generator().manual_seed(2)),
            latent,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            None,
            callback,
            True,
            0,
        )


class Previews:
    """The animated preview as a running server makes it, and the seconds that it took."""

    def __init__(self, model):
        self.seconds = 0.0
        before, args.preview_method = args.preview_method, LatentPreviewMethod.Latent2RGB
        comfy.utils.set_progress_bar_global_hook(_send)
        self._callback = clip_preview(model, EVALUATIONS)
        comfy.utils.set_progress_bar_global_hook(None)
        args.preview_method = before

    def __call__(self, *arguments) -> None:
        finish()
        start = time.perf_counter()
        self._callback(*arguments)
        self.seconds += time.perf_counter() - start


def _send(value: int, total: int, preview, **_) -> None:
    """What the host's server does with a preview before it goes over the wire."""
    form, picture, side = preview
    ImageOps.contain(picture, (side, side), Image.Resampling.BILINEAR).save(io.BytesIO(), form, quality=95)


def over_frames(unet: dict[str, torch.Tensor], size: int, repeats: int, picture: Path) -> dict:
    """Median seconds of an evaluation for each number of frames, the straight line through them, and a plot of both.

    `largest_deviation`: of a measurement from the line, as a share of it; `exponent`: 1 for growth in proportion.
    """
    model = our_model(unet)
    contestants = {
        frames: guider_within_sampling(our_guider(model, frames, size), clip_inputs(frames, size)[0])
        for frames in FRAMES
    }
    seconds = timed_in_turn(contestants, repeats)
    medians = {frames: statistics.median(values) for frames, values in seconds.items()}
    x, y = np.array(FRAMES), np.array([medians[frames] for frames in FRAMES])
    # Of the relative errors: a measurement of few frames counts as much as one of many.
    a_frame, fixed = np.polyfit(x, y, 1, w=1 / y)
    line = a_frame * x + fixed
    draw_plots(
        [
            Plot(
                f"Seconds an evaluation over frames, {size}x{size}",
                [Line("measured", list(FRAMES), y.tolist()), Line("straight line", list(FRAMES), line.tolist())],
                FRAMES[-1] + 1,
            )
        ]
    ).save(picture)
    return {
        "size": size,
        "seconds": {str(frames): value for frames, value in medians.items()},
        "seconds_a_frame": float(a_frame),
        "seconds_fixed": float(fixed),
        "largest_deviation": float(np.abs(y / line - 1).max()),
        "exponent": float(np.polyfit(np.log(x), np.log(y), 1)[0]),
    }
