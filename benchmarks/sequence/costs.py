"""What the animated preview, the contact sheet and the report cost beside the sampling, in CPU time."""

import io
import time
from collections.abc import Callable

import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from generative_inbetweening.inspection.report import report
from generative_inbetweening.inspection.sheet import contact_sheet
from generative_inbetweening.nodes import InbetweenDualDirectionKSampler, InbetweenEncodeKeyframes
from generative_inbetweening.sampler.progress import clip_preview
from PIL import ImageOps

_PREVIEW_SIDE, _JPEG_QUALITY = 512, 95
"""As ComfyUI's server sends previews."""


def costs(model, clip_vision, vae, frames: torch.Tensor, steps: int) -> dict[str, float]:
    """{what: its time / the time of sampling as many frames with so many steps}.

    `frames`: `[frames, 3, h, w]` in 0…1. The preview is ComfyUI's latent2rgb at every evaluation, as JPEG.
    """
    images = frames.movedim(1, -1).contiguous()
    height, width = images.shape[1:3]
    before, args.preview_method = args.preview_method, LatentPreviewMethod.NoPreviews
    try:
        with torch.inference_mode():
            encoded = InbetweenEncodeKeyframes.execute(
                clip_vision, vae, images[:1], images[-1:], width, height, len(images), 7, 127, 0.02, 0, "crop"
            ).args
            sampling = _seconds(lambda: _sample(model, encoded, steps))
        args.preview_method = LatentPreviewMethod.Latent2RGB
        preview = _seconds(lambda: _show(model, encoded[2]["samples"], steps))
    finally:
        args.preview_method = before
    ends = [0, len(images) - 1]
    return {
        "preview": preview / sampling,
        "contact sheet": _seconds(lambda: contact_sheet(images, 0, ends)) / sampling,
        "report": _seconds(lambda: report(images, ends)) / sampling,
    }


def _sample(model, encoded, steps: int) -> None:
    InbetweenDualDirectionKSampler.execute(
        model,
        *encoded,
        seed=0,
        steps=steps,
        guidance_min=1.0,
        guidance_max=3.0,
        fusion="average",
        sampler_name="euler",
        scheduler="karras",
        denoise=1.0,
        reinjections=0,
        reinjection_share=0.5,
        strategy="dual-direction",
        temporal_attention="rotated",
        videos_per_call="2",
    )


def _show(model, latents: torch.Tensor, evaluations: int) -> None:
    def send(value, total, preview, *_, **__):
        picture = ImageOps.contain(preview[1], (_PREVIEW_SIDE, _PREVIEW_SIDE))
        picture.save(io.BytesIO(), "JPEG", quality=_JPEG_QUALITY)

    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(send)
    try:
        callback = clip_preview(model, evaluations)
        for evaluation in range(evaluations):
            callback(evaluation, latents, latents, evaluations)
    finally:
        comfy.utils.set_progress_bar_global_hook(before)


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
