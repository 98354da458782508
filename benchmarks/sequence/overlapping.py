"""Segments sampled together, so that each knows what the next one does: a candidate, not in the product.

The latents are those of the whole video. At every evaluation each segment's forward direction runs `past` frames beyond
the segment's last keyframe, and its backward direction as many before its first one. Where several directions see a
frame, the estimate is their mean by weight, as of overlapping windows in Bar-Tal et al., "MultiDiffusion", arXiv
2302.08113, equation 5: within the segment by the weighted fusion, beyond it falling to 0.
"""

from dataclasses import dataclass, replace

import comfy.sample
import comfy.samplers
import torch

from ...sampler.conditioning import backward_conditioning
from ...sampler.guider import DualDirectionGuider
from ...sampler.ksampler import noise_levels
from ...sampler.method.fusion import reverse_time
from ...sampler.settings import GuiderSettings, Settings

_LEAST = 1e-4


@dataclass(frozen=True)
class Window:
    """Frames `first`…`last` of the video, seen by one `direction` of one `segment`.

    `weights`: of its estimate, in forward time; `scales`: of guidance, in its own time; both `[frames, 1, 1, 1]`.
    """

    segment: int
    direction: str
    first: int
    last: int
    weights: torch.Tensor
    scales: torch.Tensor


def windows(segments: int, length: int, past: int, settings: GuiderSettings) -> list[Window]:
    """Both directions of segments that are `length` frames from keyframe to keyframe."""
    found = []
    for segment in range(segments):
        for direction in ("forward", "backward"):
            beyond = past if segment != (segments - 1 if direction == "forward" else 0) else 0
            weights = torch.cat([torch.linspace(1, _LEAST, length + 1), 1 - torch.arange(1, beyond + 1) / (beyond + 1)])
            scales = torch.linspace(settings.guidance_min, settings.guidance_max, length + 1)
            scales = torch.cat([scales, scales[-1:].expand(beyond)])
            first, last = segment * length, (segment + 1) * length
            if direction == "forward":
                last += beyond
            else:
                first, weights = first - beyond, reverse_time(weights)
            found.append(
                Window(segment, direction, first, last, weights.reshape(-1, 1, 1, 1), scales.reshape(-1, 1, 1, 1))
            )
    return found


class OverlappingGuider(DualDirectionGuider):
    """GUIDER of a whole video. The backward directions keep their own maps: the forward ones' are of other frames."""

    def __init__(self, model, segments: list[tuple], layout: list[Window], settings: GuiderSettings):
        positive, negative, _ = segments[0]
        super().__init__(model, positive, negative, replace(settings, temporal_attention="own"))
        self._layout, self._windows = layout, []
        conditionings = {
            "positive": positive,
            "negative": negative,
            "positive_backward": backward_conditioning(positive, "positive"),
            "negative_backward": backward_conditioning(negative, "negative"),
        }
        for number, (positive, negative, _) in enumerate(segments):
            for half, conditioning in (("positive", positive), ("negative", negative)):
                conditionings[f"{half} forward {number}"] = conditioning
                conditionings[f"{half} backward {number}"] = backward_conditioning(conditioning, half)
        self.inner_set_conds(conditionings)

    def inner_sample(self, noise, latent_image, device, *arguments, **options) -> torch.Tensor:
        """As the dual-direction guider's, with each window's conditioning made for its own frames."""
        self._windows = [
            comfy.samplers.process_conds(
                self.inner_model,
                noise[window.first : window.last + 1],
                {half: self.conds[f"{half} {window.direction} {window.segment}"] for half in ("positive", "negative")},
                device,
            )
            for window in self._layout
        ]
        return super().inner_sample(noise, latent_image, device, *arguments, **options)

    def predict_noise(self, x, timestep, model_options=None, seed=None) -> torch.Tensor:
        """D = Σ w D_window / Σ w, `[frames, 4, h, w]`."""
        total, weight = torch.zeros_like(x), torch.zeros_like(x[:, :1])
        for window, conditionings in zip(self._layout, self._windows, strict=True):
            seen = slice(window.first, window.last + 1)
            branches = {(half, window.direction): conditionings[half] for half in ("positive", "negative")}
            found = self.run.unet_calls.estimates(branches, x[seen], timestep[seen], model_options or {})
            positive, negative = (found[half, window.direction] for half in ("positive", "negative"))
            estimate = negative + window.scales.to(x) * (positive - negative)
            estimate = reverse_time(estimate) if window.direction == "backward" else estimate
            total[seen] += window.weights.to(x) * estimate
            weight[seen] += window.weights.to(x)
        result = total / weight
        self.run.progress.evaluated(result, x)
        return result


def sample_overlapping(
    model, segments: list[tuple], layout: list[Window], seed: int, settings: Settings
) -> torch.Tensor:
    """The whole video's latents, `[frames, 4, h, w]`; `segments`: (positive, negative, latent of the whole video)."""
    sampler, empty = settings.sampler, segments[0][2]["samples"]
    guider = OverlappingGuider(model, segments, layout, settings.guider)
    noise = comfy.sample.prepare_noise(empty, seed, None)
    sigmas = noise_levels(model, sampler.sampler_name, sampler.scheduler, sampler.steps, 1.0)
    return guider.sample(
        noise, empty, comfy.samplers.sampler_object(sampler.sampler_name), sigmas, None, None, True, seed
    )
