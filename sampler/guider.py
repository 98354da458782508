"""The host's guider for dual-directional sampling: one evaluation of Wang et al., arXiv 2408.15239, section 4.2.

It computes, at every evaluation, the forward direction from the first keyframe and the backward direction from the
last, each with guidance in its own time, and gives the sampler their fusion. Sequential sampling asks it for one
direction at a time.
"""

import logging
import math
from dataclasses import replace
from functools import partial

import comfy.model_base
import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import torch

from ..common.out_of_memory import is_out_of_memory
from ..weights.attach import beside_its_weights
from ..weights.host import free_memory
from .conditioning import (
    backward_conditioning,
    check_conditioning,
    check_embedding,
    check_latent,
    check_samples,
    checked_mask,
    embedding_width,
    keyframe_latents,
)
from .guidance import Direction, Guidance, OwnScale, far_scale, functions_of_nodes, functions_of_sampler, guide
from .host_nodes import call_wrappers, check_additions, naming_failures, nodes_behind, unet_patches, wrapping_nodes
from .memory_limit import check_one_video_fits, no_room
from .method.alternating import ONE_DIRECTION, KeyframeLatents
from .method.attention import BackwardProjections, ForwardMapMissing, UNetCall, VideoInBatch, VideosDivided
from .method.fusion import endpoint_correction, fuse, fusion_weights, reverse_time
from .method.reinjection import stream_seed
from .progress import EvaluationProgress
from .samplers import AlternatingSampler
from .settings import TRAINING_FREE, GuiderSettings
from .unet_calls import Part, calls, choose_order, lower_order
from .unet_patches import UNET_CALL, dual_direction_unet, temporal_attention_layers

logger = logging.getLogger(__name__)

_BACKWARD_MOTION = "inbetween_backward_motion"
# The host's own margin on its estimate before it puts videos into one call.
_MEMORY_MARGIN = 1.5
# Why an evaluation is made anew.
_OUT_OF_MEMORY = "the device ran out of memory"
_BACKWARD_FIRST = "the host computed the backward direction first"
_CALLED_TWICE = "another node makes a UNet call twice"
_DIVIDED = "another node divides the UNet's calls"
_CALC_COND_BATCH = comfy.patcher_extension.WrappersMP.CALC_COND_BATCH


class DualDirectionGuider(comfy.samplers.CFGGuider):
    """GUIDER that runs SVD forward from the first and backward from the last keyframe and fuses both.

    Raises ValueError, naming the input, when the model is no SVD, lacks backward-motion weights that the settings ask
    for, or when the conditioning cannot be used in both directions.
    """

    def __init__(self, model, positive: list, negative: list, settings: GuiderSettings):
        check_model(model, settings)
        super().__init__(model)
        self.settings = settings
        for name, conditioning in (("positive", positive), ("negative", negative)):
            check_conditioning(conditioning, name)
        self._frames_of = {"positive": positive, "negative": negative}
        self.inner_set_conds(
            {
                "positive": positive,
                "negative": negative,
                "positive_backward": backward_conditioning(positive, "positive"),
                "negative_backward": backward_conditioning(negative, "negative"),
            }
        )
        self.set_cfg(far_scale(settings.fusion, settings.guidance_min, settings.guidance_max))
        # Last: for hooks the host takes another MODEL, one without dynamic VRAM.
        self.model_patcher = beside_its_weights(self.model_patcher)
        # Both directions of one conditioning are known by the forward one's identity.
        self._shared_identity = {
            backward["uuid"]: forward["uuid"]
            for half in ("positive", "negative")
            for forward, backward in zip(self.original_conds[half], self.original_conds[f"{half}_backward"])
        }

    def sample(
        self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
    ):
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
        if self.settings.alternating:
            sampler = AlternatingSampler(sampler, self._keyframe_latents())
        steps = max(len(sigmas) - 1, 0)
        passes = sampler.sampler_steps(steps) if hasattr(sampler, "sampler_steps") else steps
        with EvaluationProgress(callback, passes, disable_pbar) as self._progress, naming_failures(self.model_options):
            # Our bar counts evaluations, so the sampler's own, which counts its steps, stays off.
            return super().sample(
                noise,
                latent_image,
                sampler,
                sigmas,
                denoise_mask,
                lambda step, x0, x, total: self._progress.stepped(x0, x),
                True,
                stream_seed(seed or 0, *_streams_of_sampler(noise, sigmas)),
            )

    def _keyframe_latents(self) -> KeyframeLatents:
        return keyframe_latents(self._frames_of["positive"], self.model_patcher.model.process_latent_in)

    def inner_sample(self, noise, latent_image, device, *args, **kwargs):
        """As the host's, with the method's attention in the UNet meanwhile and nothing left behind afterwards."""
        frames, settings = noise.shape[0], self.settings
        self._maps, self._nested_maps, self._videos_computed, self._forward_again = {}, {}, set(), None
        self._keeps_maps = False
        self._weights = fusion_weights(settings.fusion, frames).to(device)
        self._guidance = Guidance.of_settings(
            settings.fusion, frames, settings.guidance_min, settings.guidance_max, device
        )
        self._last_keyframe = self._keyframe_latents().last.to(device)
        self._order = self._first_order(noise.shape, device)
        self._guided_sigmas = self._guidance_interval()
        self._apart = unet_patches(self.model_options)
        self._attention_layers = len(temporal_attention_layers(self.inner_model))
        self._say_what_takes_over()
        try:
            with dual_direction_unet(self.inner_model.diffusion_model, self._backward_projections):
                return super().inner_sample(noise, latent_image, device, *args, **kwargs)
        finally:
            del self._maps, self._nested_maps, self._weights, self._guidance, self._last_keyframe, self._forward_again

    def predict_noise(self, x, timestep, model_options, seed=None):
        """The fused estimate of the denoised latents, `[frames, 4, h, w]`, from noisy latents of the same shape.

        With ONE_DIRECTION among the model options, the estimate of that direction, in forward time.
        """
        wanted = model_options.get(ONE_DIRECTION)
        directions = (wanted,) if wanted else ("forward", "backward")
        guidance = self._guidance_at(timestep)
        guided = guidance.needed or model_options.get("disable_cfg1_optimization", False)
        of_nodes = functions_of_nodes(self.model_options)
        parts, estimates, halves = self._estimates(x, timestep, model_options, guided, directions), {}, {}
        for direction in directions:
            shown = self._shown(direction, x, timestep, model_options, guided)
            estimates[direction], halves[direction] = guide(
                shown, parts["positive", direction], parts.get(("negative", direction)), guidance, of_nodes
            )
        denoised = self._joined(estimates)
        of_sampler = functions_of_sampler(model_options, of_nodes)
        if of_sampler:
            shown = replace(self._shown("forward", x, timestep, model_options, guided), model_options=model_options)
            joined = [self._joined({direction: halves[direction][half] for direction in directions}) for half in (0, 1)]
            for function in of_sampler:
                denoised = shown.after(function, denoised, joined, guidance.scale)
        self._progress.evaluated(denoised, x)
        return denoised

    def _shown(self, direction: str, x, timestep, model_options, guided: bool) -> Direction:
        """What the functions of other nodes are shown of one direction."""
        # With a motion prior it is the forward direction that the model computes, in both.
        end = "_backward" if direction == "backward" and not self.settings.endpoint_correction else ""
        options = comfy.model_patcher.create_model_options_clone(model_options)
        options.pop("multigpu_clones", None)
        wrapper = self._own_time_wrapper(direction, model_options.get("model_function_wrapper"))
        return Direction(
            self.inner_model,
            self.conds[f"positive{end}"],
            self.conds[f"negative{end}"] if guided else None,
            reverse_time(x) if direction == "backward" else x,
            timestep,
            {**options, "model_function_wrapper": wrapper},
        )

    def _joined(self, estimates: dict[str, torch.Tensor]) -> torch.Tensor:
        """The directions' estimates, each in its own time, as one in forward time."""
        if len(estimates) == 2:
            return fuse(estimates["forward"], estimates["backward"], self._weights)
        return estimates["forward"] if "forward" in estimates else reverse_time(estimates["backward"])

    def _guidance_at(self, timestep: torch.Tensor) -> Guidance:
        """The guidance at noise level σ = `timestep`: none outside the guidance interval."""
        if not isinstance(self.cfg, OwnScale):
            # A node such as CFGOverride has set another number for this evaluation.
            return Guidance.constant(self.cfg)
        lowest, highest = self._guided_sigmas
        if (lowest == 0 and highest == math.inf) or lowest <= float(timestep.max()) <= highest:
            return self._guidance
        return Guidance.off()

    def _guidance_interval(self) -> tuple[float, float]:
        """(lowest, highest) σ with guidance (Kynkäänniemi et al., arXiv 2404.07724)."""
        settings, sampling = self.settings, self.inner_model.model_sampling
        highest = sampling.percent_to_sigma(settings.guidance_start) if settings.guidance_start > 0 else math.inf
        lowest = sampling.percent_to_sigma(settings.guidance_end) if settings.guidance_end < 1 else 0.0
        return float(lowest), float(highest)

    def _estimates(self, x, timestep, model_options, guided: bool, directions) -> dict[Part, torch.Tensor]:
        """Denoised estimates of {(guidance half, direction)}, each in its direction's own time."""
        if not self.settings.endpoint_correction:
            return self._computed(x, timestep, model_options, guided, directions)
        forward = self._computed(x, timestep, model_options, guided, ("forward",))
        return with_backward_estimates(forward, self._last_keyframe)

    def _computed(self, x, timestep, model_options, guided: bool, directions) -> dict[Part, torch.Tensor]:
        """The estimates of these directions by the UNet, to the host and its wrappers one batch of conditioning."""
        parts = [
            (half, direction)
            for direction in directions
            for half in ("positive", "negative")
            if guided or half == "positive"
        ]
        batch = comfy.patcher_extension.WrapperExecutor.new_executor(
            lambda model, conditionings, *rest: self._batch(dict(zip(parts, conditionings)), guided, directions, *rest),
            comfy.patcher_extension.get_all_wrappers(_CALC_COND_BATCH, model_options, is_model_options=True),
        )
        conditionings = [
            self.conds[half if direction == "forward" else f"{half}_backward"] for half, direction in parts
        ]
        results = batch.execute(self.inner_model, conditionings, x, timestep, model_options)
        return {part: reverse_time(result) if part[1] == "backward" else result for part, result in zip(parts, results)}

    def _batch(self, conditionings: dict[Part, list], guided: bool, directions, x, timestep, model_options):
        """The estimates in forward time, with fewer videos a call when memory runs out."""
        options = comfy.model_patcher.create_model_options_clone(model_options)
        # Clones on other GPUs would run without the shared attention; one GPU computes all videos.
        options.pop("multigpu_clones", None)
        # They run once for all calls together, as they do around the host's one.
        options.get("transformer_options", {}).get("wrappers", {}).pop(_CALC_COND_BATCH, None)
        work = partial(self._calls, conditionings, x, timestep, options)
        if directions == ("forward",):
            self._forward_again = partial(work, guided, directions)
        lost = None
        while True:
            try:
                if lost is not None and directions == ("backward",):
                    # What failed has used up the maps of the forward direction, which had a call of its own.
                    self._forward_again()
                estimates = work(guided, directions)
                return [estimates[part] for part in conditionings]
            except Exception as error:
                lost, lower = self._lost(error, directions), lower_order(self._order)
                if lost is None:
                    raise
                if lost == _CALLED_TWICE and not self._keeps_maps:
                    lower, self._keeps_maps = self._order, True
                elif lower is None and lost == _OUT_OF_MEMORY:
                    logger.error("Dual-direction sampling: %s.", no_room(x.shape))
                    raise
                elif lower is None:
                    found = wrapping_nodes(
                        options.get("transformer_options", {}), options.get("model_function_wrapper")
                    )
                    raise ValueError(
                        "model: expected each UNet call with whole videos, as it was made, found it "
                        f"divided by another node{found}. Disconnect that node from the model."
                    ) from error
            # Outside the handler: the exception holds on to the tensors of the failed call.
            logger.warning("Dual-direction sampling: %s, going on with %s video(s) a call.", lost, lower)
            self._order = lower
            self._say_what_is_lost()
            self._maps.clear()
            comfy.model_management.soft_empty_cache()

    def _lost(self, error: Exception, directions) -> str | None:
        """Why an evaluation has to be made anew, if it can be."""
        if isinstance(error, ForwardMapMissing):
            # With a call of its own the backward direction always finds the maps, the first time.
            return _CALLED_TWICE if self._order == "1" or directions == ("backward",) else _BACKWARD_FIRST
        if isinstance(error, VideosDivided):
            return _DIVIDED
        return _OUT_OF_MEMORY if is_out_of_memory(error) else None

    def _calls(self, conditionings, x, timestep, options, guided: bool, directions) -> dict[Part, torch.Tensor]:
        estimates = {}
        for call in calls(self._order, guided, directions, bool(self._apart)):
            comfy.model_management.throw_exception_if_processing_interrupted()
            wrapper = self._reversing_wrapper(call, options.get("model_function_wrapper"))
            results = comfy.samplers.calc_cond_batch(
                self.inner_model,
                [conditionings[part] for part in call],
                x,
                timestep,
                {**options, "model_function_wrapper": wrapper},
            )
            estimates.update(zip(call, results))
        return estimates

    def _reversing_wrapper(self, call: list[Part], previous):
        """The host's hook around a UNet call: backward videos go in and come out in reversed time.

        To the host every video is in forward time, so masks and inpainting mean the same frames in both directions.
        """

        def wrapper(apply_model, arguments):
            parts = [call[index] for index in arguments["cond_or_uncond"]]
            videos = [
                VideoInBatch(direction, identity)
                for (_, direction), identity in zip(parts, self._identities(arguments))
            ]
            unet_call = UNetCall(
                videos,
                self.settings.temporal_attention,
                self._maps,
                self._keeps_maps,
                len(arguments["input"]) // len(videos),
            )
            # Other patches read 0 as conditional and 1 as unconditional here.
            arguments = _with_call(arguments, unet_call, [int(half == "negative") for half, _ in parts])
            arguments["input"] = _reversed_where_backward(arguments["input"], videos)
            result = _apply(apply_model, arguments, previous)
            self._check_attention_was_used(unet_call, arguments, previous)
            return _reversed_where_backward(result, videos)

        return wrapper

    def _own_time_wrapper(self, direction: str, previous):
        """The hook around the model calls that other nodes' functions make in a direction, all in its own time."""
        derived = direction == "backward" and self.settings.endpoint_correction
        made: dict[object, int] = {}

        def wrapper(apply_model, arguments):
            videos = []
            for identity in self._identities(arguments):
                # A function may call the model several times: each of them has its twin in the other direction.
                made[identity] = made.get(identity, 0) + 1
                videos.append(VideoInBatch("forward" if derived else direction, (identity, made[identity])))
            # Such a call is not made anew, so it is ready for a wrapper of another node that makes it twice.
            keeps = bool(call_wrappers(arguments["c"]["transformer_options"], previous))
            unet_call = UNetCall(
                videos,
                self.settings.temporal_attention,
                self._nested_maps,
                keeps,
                len(arguments["input"]) // len(videos),
            )
            arguments = _with_call(arguments, unet_call, arguments["cond_or_uncond"])
            if not derived:
                return _apply(apply_model, arguments, previous)
            arguments["input"] = _each(reverse_time, arguments["input"], len(videos))
            result = _apply(apply_model, arguments, previous)
            return _each(lambda forward: endpoint_correction(forward, self._last_keyframe), result, len(videos))

        return wrapper

    def _identities(self, arguments: dict) -> list[object]:
        return [
            self._shared_identity.get(identity, identity) for identity in arguments["c"]["transformer_options"]["uuids"]
        ]

    def _first_order(self, shape: torch.Size, device: torch.device) -> str:
        if self.settings.videos_per_call != "auto":
            return self.settings.videos_per_call

        def memory_of_videos(count: int) -> float:
            return _MEMORY_MARGIN * self.inner_model.memory_required([count * shape[0], *shape[1:]])

        free = free_memory(self.model_patcher, device)
        order = choose_order(memory_of_videos, free, comfy.model_management.is_device_cuda(device))
        logger.info(
            "Dual-direction sampling: %s video(s) a call, %.1f GiB free, %.1f GiB estimated for two.",
            order,
            free / 2**30,
            memory_of_videos(2) / 2**30,
        )
        return order

    def _backward_projections(self, layer: str) -> BackwardProjections | None:
        attached = self.model_patcher.get_attachment(_BACKWARD_MOTION)
        if attached is None or not self.settings.backward_motion or attached.strength == 0:
            return None
        difference = attached.weights.layer(f"diffusion_model.{layer}")
        return BackwardProjections(difference["to_v"], difference["to_out"], attached.strength)

    def _check_attention_was_used(self, unet_call: UNetCall, arguments: dict, function_wrapper) -> None:
        done, videos = unet_call.layers_done, set(unet_call.videos)
        # A cache may leave the UNet out for a video that it has seen before.
        if done < self._attention_layers and (done or not videos <= self._videos_computed):
            nodes = wrapping_nodes(arguments["c"]["transformer_options"], function_wrapper)
            raise ValueError(
                "model: expected the UNet's own temporal attention, found it replaced by another node"
                f"{nodes}. Disconnect that node from the model."
            )
        self._videos_computed |= videos

    def _say_what_takes_over(self) -> None:
        settings, function = self.settings, self.model_options.get("sampler_cfg_function")
        if function is not None and settings.fusion == "weighted" and settings.guidance_min != settings.guidance_max:
            logger.info(
                "Dual-direction sampling: %s takes the place of guidance that rises from guidance_min to "
                "guidance_max. It gets one scale, guidance_max.",
                nodes_behind([function]),
            )
        self._say_what_is_lost()

    def _say_what_is_lost(self) -> None:
        if self._apart and self._order == "1":
            logger.warning(
                "Dual-direction sampling: with one video a call, patches of %s cannot compare both guidance "
                "halves. One that does so, as NAGuidance, has no effect, as in ComfyUI's KSampler where "
                "memory is that short. Choose another videos_per_call, fewer frames or a smaller size.",
                nodes_behind(self._apart),
            )


def _streams_of_sampler(noise: torch.Tensor, sigmas: torch.Tensor) -> tuple[str, ...]:
    # A run that goes on from another's latents has no noise and, by the host's DisableNoise, always the seed 0.
    goes_on = len(sigmas) > 0 and not torch.count_nonzero(noise)
    return ("sampler", f"from {float(sigmas[0]):.6g}") if goes_on else ("sampler",)


def _with_call(arguments: dict, unet_call: UNetCall, cond_or_uncond: list[int]) -> dict:
    """The arguments of a UNet call with what the temporal attention has to know among the transformer's options."""
    options = {**arguments["c"]["transformer_options"], UNET_CALL: unet_call, "cond_or_uncond": cond_or_uncond}
    return {**arguments, "c": {**arguments["c"], "transformer_options": options}, "cond_or_uncond": cond_or_uncond}


def _apply(apply_model, arguments: dict, previous) -> torch.Tensor:
    if previous is not None:
        return previous(apply_model, arguments)
    return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])


def _each(function, batch: torch.Tensor, videos: int) -> torch.Tensor:
    return torch.cat([function(video) for video in batch.chunk(videos)])


def _reversed_where_backward(batch: torch.Tensor, videos: list[VideoInBatch]) -> torch.Tensor:
    parts = batch.chunk(len(videos))
    return torch.cat(
        [reverse_time(part) if video.direction == "backward" else part for part, video in zip(parts, videos)]
    )


def check_model(model, settings: GuiderSettings) -> None:
    """Raises ValueError when the model is no SVD, lacks backward-motion weights, or carries what cannot be used."""
    if not temporal_attention_layers(model.model) or not isinstance(model.model, comfy.model_base.SVD_img2vid):
        raise ValueError(
            f"model: expected Stable Video Diffusion, found {type(model.model).__name__}. Connect Load SVD Model."
        )
    if settings.backward_motion and model.get_attachment(_BACKWARD_MOTION) is None:
        raise ValueError(
            "model: expected backward-motion weights, found a model without them. Put Load Backward "
            "Motion Weights between Load SVD Model and this node, or choose a strategy that needs none: "
            + ", ".join(f"`{name}`" for name in TRAINING_FREE)
            + "."
        )
    check_additions(model, settings.alternating)


def with_backward_estimates(
    estimates: dict[Part, torch.Tensor], last_keyframe: torch.Tensor
) -> dict[Part, torch.Tensor]:
    """The forward estimates of each guidance half, and the backward ones that follow from them."""
    return estimates | {
        (half, "backward"): endpoint_correction(forward, last_keyframe) for (half, _), forward in estimates.items()
    }
