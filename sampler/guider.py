"""The host's guider for dual-directional sampling: one evaluation of Wang et al., arXiv 2408.15239, section 4.2.

It computes, at every evaluation, the forward direction from the first keyframe and the backward direction from the
last, each with guidance in its own time, and gives the sampler their fusion. Sequential sampling asks it for one
direction at a time.
"""

import logging
import math

import comfy.model_base
import comfy.model_management
import comfy.samplers
import torch

from ..weights.attach import beside_its_weights
from .dual_direction_settings import DualDirectionSettings
from .fusion import changes_nothing, fuse, fusion_weights, guidance_scales
from .keyframe_conditioning import (
    backward_conditioning,
    check_conditioning,
    check_embedding,
    check_latent,
    embedding_width,
    keyframe_latents,
)
from .latent_checks import check_samples, checked_mask
from .memory_limit import check_one_video_fits, no_room
from .motion_prior import with_backward_estimates
from .noise import stream_seed
from .order_of_work import Part, calls, choose_order, lower_order
from .progress import EvaluationProgress
from .sequential import ONE_DIRECTION, KeyframeLatents
from .sequential_sampler import SequentialSampler
from .strategies import TRAINING_FREE
from .temporal_attention import BackwardProjections, ForwardMapMissing, UNetCall, Video
from .time_reversal import reverse_time
from .unet_patches import UNET_CALL, dual_direction_unet, temporal_attention_layers

logger = logging.getLogger(__name__)

_BACKWARD_MOTION = "inbetween_backward_motion"
# The host's own margin on its estimate before it puts videos into one call.
_MEMORY_MARGIN = 1.5
_REFUSED_OPTIONS = {"context_handler": "context windows", "sampler_calc_cond_batch_function": "replaced model calls"}


class DualDirectionGuider(comfy.samplers.CFGGuider):
    """GUIDER that runs SVD forward from the first and backward from the last keyframe and fuses both.

    Raises ValueError, naming the input, when the model is no SVD, lacks backward-motion weights that the settings ask
    for, or when the conditioning cannot be used in both directions.
    """

    def __init__(self, model, positive: list, negative: list, settings: DualDirectionSettings):
        _check_model(model, settings)
        super().__init__(model)
        self.settings = settings
        for name, conditioning in (("positive", positive), ("negative", negative)):
            check_conditioning(conditioning, name)
        self._frames_of = {"positive": positive, "negative": negative}
        self.inner_set_conds({"positive": positive, "negative": negative,
                              "positive_backward": backward_conditioning(positive, "positive"),
                              "negative_backward": backward_conditioning(negative, "negative")})
        self.set_cfg((settings.guidance_min + settings.guidance_max) / 2)
        # Last: for hooks the host takes another MODEL, one without dynamic VRAM.
        self.model_patcher = beside_its_weights(self.model_patcher)
        # Both directions of one conditioning are known by the forward one's identity.
        self._shared_identity = {
            backward["uuid"]: forward["uuid"] for half in ("positive", "negative")
            for forward, backward in zip(self.original_conds[half], self.original_conds[f"{half}_backward"])}

    def sample(self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False,
               seed=None):
        """As the host's guider; `callback(evaluation, x0, x, evaluations)` counts UNet evaluations, not steps.

        `seed`: the one that `noise` was drawn from; what the sampler draws comes from another stream of it.
        Raises ValueError, before the first step, when latent, mask or embeddings do not fit the keyframes or the model.
        """
        check_samples(latent_image)
        denoise_mask = checked_mask(denoise_mask)
        for name, conditioning in self._frames_of.items():
            check_latent(conditioning, name, latent_image)
            check_embedding(conditioning, name, embedding_width(self.model_patcher))
        check_one_video_fits(self.model_patcher, latent_image.shape)
        if self.settings.sequential:
            sampler = SequentialSampler(sampler, self._keyframe_latents())
        steps = max(len(sigmas) - 1, 0)
        passes = sampler.passes(steps) if hasattr(sampler, "passes") else steps
        with EvaluationProgress(callback, passes, disable_pbar) as self._progress:
            # Our bar counts evaluations, so the sampler's own, which counts its steps, stays off.
            return super().sample(noise, latent_image, sampler, sigmas, denoise_mask,
                                  lambda step, x0, x, total: self._progress.stepped(x0, x), True,
                                  stream_seed(seed or 0, "sampler"))

    def _keyframe_latents(self) -> KeyframeLatents:
        return keyframe_latents(self._frames_of["positive"], self.model_patcher.model.process_latent_in)

    def inner_sample(self, noise, latent_image, device, *args, **kwargs):
        """As the host's, with the method's attention in the UNet meanwhile and nothing left behind afterwards."""
        frames, self._maps = noise.shape[0], {}
        self._weights = fusion_weights(self.settings.fusion, frames).to(device)
        self._scales = guidance_scales(self.settings.fusion, frames, self.settings.guidance_min,
                                       self.settings.guidance_max).to(device)
        self._last_keyframe = self._keyframe_latents().last.to(device)
        self._order = self._first_order(noise.shape, device)
        self._guided_sigmas = self._guidance_interval()
        self._attention_layers = len(temporal_attention_layers(self.inner_model))
        try:
            with dual_direction_unet(self.inner_model.diffusion_model, self._backward_projections):
                return super().inner_sample(noise, latent_image, device, *args, **kwargs)
        finally:
            del self._maps, self._weights, self._scales, self._last_keyframe

    def predict_noise(self, x, timestep, model_options, seed=None):
        """The fused estimate of the denoised latents, `[frames, 4, h, w]`, from noisy latents of the same shape.

        With ONE_DIRECTION among the model options, the estimate of that direction, in forward time.
        """
        wanted = model_options.get(ONE_DIRECTION)
        directions = (wanted,) if wanted else ("forward", "backward")
        scales = self._scales_at(timestep)
        guided = not changes_nothing(scales) or model_options.get("disable_cfg1_optimization", False)
        estimates = self._estimates(x, timestep, model_options, guided, directions)
        denoised = self._joined({direction: self._guided(direction, estimates, scales, x, timestep, model_options)
                                 for direction in directions})
        denoised = self._after_guidance(denoised, estimates, directions, x, timestep, model_options)
        self._progress.evaluated(denoised, x)
        return denoised

    def _joined(self, estimates: dict[str, torch.Tensor]) -> torch.Tensor:
        """The directions' estimates, each in its own time, as one in forward time."""
        if len(estimates) == 2:
            return fuse(estimates["forward"], estimates["backward"], self._weights)
        return estimates["forward"] if "forward" in estimates else reverse_time(estimates["backward"])

    def _scales_at(self, timestep: torch.Tensor) -> torch.Tensor:
        """The guidance scales, `[frames, 1, 1, 1]`, at noise level σ = `timestep`: 1 outside the guidance interval."""
        lowest, highest = self._guided_sigmas
        if lowest == 0 and highest == math.inf:
            return self._scales
        return self._scales if lowest <= float(timestep.max()) <= highest else torch.ones_like(self._scales)

    def _guidance_interval(self) -> tuple[float, float]:
        """(lowest, highest) σ with guidance (Kynkäänniemi et al., arXiv 2404.07724)."""
        settings, sampling = self.settings, self.inner_model.model_sampling
        highest = sampling.percent_to_sigma(settings.guidance_start) if settings.guidance_start > 0 else math.inf
        lowest = sampling.percent_to_sigma(settings.guidance_end) if settings.guidance_end < 1 else 0.0
        return float(lowest), float(highest)

    def _estimates(self, x, timestep, model_options, guided: bool, directions) -> dict[Part, torch.Tensor]:
        """Denoised estimates of {(guidance half, direction)}, each in its direction's own time."""
        if not self.settings.motion_prior:
            return self._computed(x, timestep, model_options, guided, directions)
        forward = self._computed(x, timestep, model_options, guided, ("forward",))
        return with_backward_estimates(forward, self._last_keyframe)

    def _computed(self, x, timestep, model_options, guided: bool, directions) -> dict[Part, torch.Tensor]:
        """The estimates of these directions by the UNet, with fewer videos a call when memory runs out."""
        while True:
            try:
                estimates = {}
                for call in calls(self._order, guided, directions):
                    comfy.model_management.throw_exception_if_processing_interrupted()
                    estimates.update(self._call_unet(call, x, timestep, model_options))
                return estimates
            except (comfy.model_management.OOM_EXCEPTION, ForwardMapMissing) as error:
                lower = lower_order(self._order)
                if lower is None:
                    logger.error("Dual-direction sampling: %s.", no_room(x.shape))
                    raise
                reason = "the device ran out of memory" if not isinstance(error, ForwardMapMissing) else \
                    "the host computed the backward direction first"
            # Outside the handler: the exception holds on to the tensors of the failed call.
            logger.warning("Dual-direction sampling: %s, going on with %s videos.", reason, lower)
            self._order = lower
            self._maps.clear()
            comfy.model_management.soft_empty_cache()

    def _call_unet(self, call: list[Part], x, timestep, model_options) -> dict[Part, torch.Tensor]:
        conditionings = [self.conds[half if direction == "forward" else f"{half}_backward"]
                         for half, direction in call]
        options = comfy.model_patcher.create_model_options_clone(model_options)
        # Clones on other GPUs would run without the shared attention; one GPU computes all videos.
        options.pop("multigpu_clones", None)
        options["model_function_wrapper"] = self._reversing_wrapper(call, model_options.get("model_function_wrapper"))
        results = comfy.samplers.calc_cond_batch(self.inner_model, conditionings, x, timestep, options)
        return {part: reverse_time(result) if part[1] == "backward" else result
                for part, result in zip(call, results)}

    def _reversing_wrapper(self, call: list[Part], previous):
        """The host's hook around a UNet call: backward videos go in and come out in reversed time.

        To the host every video is in forward time, so masks and inpainting mean the same frames in both directions.
        """
        def wrapper(apply_model, arguments):
            parts = [call[index] for index in arguments["cond_or_uncond"]]
            options = dict(arguments["c"]["transformer_options"])
            identities = [self._shared_identity.get(identity, identity) for identity in options["uuids"]]
            videos = [Video(direction, identity) for (_, direction), identity in zip(parts, identities)]
            options[UNET_CALL] = unet_call = UNetCall(videos, self.settings.temporal_attention, self._maps)
            # Other patches read 0 as conditional and 1 as unconditional here.
            options["cond_or_uncond"] = [int(half == "negative") for half, _ in parts]
            arguments = {**arguments, "input": _reversed_where_backward(arguments["input"], videos),
                         "c": {**arguments["c"], "transformer_options": options},
                         "cond_or_uncond": options["cond_or_uncond"]}
            if previous is not None:
                result = previous(apply_model, arguments)
            else:
                result = apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
            self._check_attention_was_used(unet_call)
            return _reversed_where_backward(result, videos)

        return wrapper

    def _guided(self, direction: str, estimates, scales, x, timestep, model_options) -> torch.Tensor:
        """v_u + g_i (v_c − v_u) in the direction's own time, by the host's function so that its patches apply."""
        conds = [self.conds["positive"], self.conds["negative"]]
        outputs = [estimates["positive", direction], estimates.get(("negative", direction))]
        if outputs[1] is None:
            return outputs[0]
        x = reverse_time(x) if direction == "backward" else x
        for function in model_options.get("sampler_pre_cfg_function", []):
            outputs = function({"conds": conds, "conds_out": outputs, "cond_scale": self.cfg, "timestep": timestep,
                                "input": x, "sigma": timestep, "model": self.inner_model,
                                "model_options": model_options})
        options = {**model_options, "sampler_post_cfg_function": []}
        return comfy.samplers.cfg_function(self.inner_model, outputs[0], outputs[1], scales, x, timestep,
                                           model_options=options, cond=conds[0], uncond=conds[1])

    def _after_guidance(self, denoised, estimates, directions, x, timestep, model_options) -> torch.Tensor:
        """The host's post-guidance functions, among them those of its CFG++ samplers, on the joined estimates."""
        functions = model_options.get("sampler_post_cfg_function", [])
        if not functions:
            return denoised
        halves = {half: self._joined({direction: estimates[half, direction] for direction in directions})
                  for half in ("positive", "negative") if (half, directions[0]) in estimates}
        for function in functions:
            denoised = function({"denoised": denoised, "cond": self.conds["positive"], "uncond": self.conds["negative"],
                                 "cond_scale": self.cfg, "model": self.inner_model,
                                 "uncond_denoised": halves.get("negative"), "cond_denoised": halves["positive"],
                                 "sigma": timestep, "model_options": model_options, "input": x})
        return denoised

    def _first_order(self, shape: torch.Size, device: torch.device) -> str:
        if self.settings.order_of_work != "auto":
            return self.settings.order_of_work

        def memory_of_videos(count: int) -> float:
            return _MEMORY_MARGIN * self.inner_model.memory_required([count * shape[0], *shape[1:]])

        free = comfy.model_management.get_free_memory(device)
        order = choose_order(memory_of_videos, free, comfy.model_management.is_device_cuda(device))
        logger.info("Dual-direction sampling: %s videos, %.1f GiB free, %.1f GiB estimated for a pair.", order,
                    free / 2 ** 30, memory_of_videos(2) / 2 ** 30)
        return order

    def _backward_projections(self, layer: str) -> BackwardProjections | None:
        attached = self.model_patcher.get_attachment(_BACKWARD_MOTION)
        if attached is None or not self.settings.backward_motion or attached.strength == 0:
            return None
        difference = attached.weights.layer(f"diffusion_model.{layer}")
        return BackwardProjections(difference["to_v"], difference["to_out"], attached.strength)

    def _check_attention_was_used(self, unet_call: UNetCall) -> None:
        if unet_call.layers_done < self._attention_layers:
            raise ValueError("model: expected the UNet's own temporal attention, found it replaced by another node "
                             "(an attn1 replacement). Disconnect that node from the model.")


def _reversed_where_backward(batch: torch.Tensor, videos: list[Video]) -> torch.Tensor:
    parts = batch.chunk(len(videos))
    return torch.cat([reverse_time(part) if video.direction == "backward" else part
                      for part, video in zip(parts, videos)])


def _check_model(model, settings: DualDirectionSettings) -> None:
    if not temporal_attention_layers(model.model) or not isinstance(model.model, comfy.model_base.SVD_img2vid):
        raise ValueError(f"model: expected Stable Video Diffusion, found {type(model.model).__name__}. "
                         "Connect Load SVD Model.")
    if settings.backward_motion and model.get_attachment(_BACKWARD_MOTION) is None:
        raise ValueError("model: expected backward-motion weights, found a model without them. Put Load Backward "
                         "Motion Weights between Load SVD Model and this node, or choose a strategy that needs none: "
                         + ", ".join(f"`{name}`" for name in TRAINING_FREE) + ".")
    for option, feature in _REFUSED_OPTIONS.items():
        if option in model.model_options:
            raise ValueError(f"model: {feature} cannot be used with dual-direction sampling. Disconnect the node that "
                             "adds them.")
    if model.model_options.get("transformer_options", {}).get("patches_replace", {}).get("attn1"):
        raise ValueError("model: expected the UNet's own self-attention, found it replaced by another node. "
                         "Disconnect that node from the model.")
