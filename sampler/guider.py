"""The host's guider for sampling in both directions: one evaluation of Wang et al., arXiv 2408.15239, section 4.2.

An evaluation computes, at one noise level, the forward direction from the first keyframe and the backward direction
from the last one, each with guidance in its own time, and gives the sampler their fusion. Alternating sampling asks it
for one direction at a time. Without a first keyframe the backward direction alone is the estimate; the forward one is
computed without a picture, as SVD's unconditional half is, for the attention maps that the backward one rotates.
`unet_calls.py` decides in how many UNet calls they are computed.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import comfy.model_base
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher, create_model_options_clone

from ..common.remarks import remarks_on_node
from ..weights.attach import ATTACHMENT, beside_its_weights
from .conditioning import (
    Conditioning,
    backward_conditioning,
    check_both_keyframes,
    check_conditioning,
    check_embedding,
    check_latent,
    clean_keyframe_latents,
    embedding_width,
    has_first_keyframe,
    keyframe_latents,
    middle_keyframe_latents,
)
from .guidance import Guidance, GuidanceContext, OwnScale, far_scale, functions_of_nodes, functions_of_sampler, guide
from .host_nodes import check_additions, naming_failures, nodes_behind
from .latent_checks import check_samples, checked_mask
from .memory_limit import check_one_video_fits
from .method.alternating import ONE_DIRECTION, KeyframeLatents
from .method.attention import BackwardProjections
from .method.fusion import FUSIONS, endpoint_correction, fuse, fusion_weights, reverse_time
from .method.middle_keyframes import correction_weights, middle_keyframe_correction
from .method.noise import stream_seed
from .progress import Callback, EvaluationProgress
from .samplers import AlternatingSampler
from .settings import TRAINING_FREE, GuiderSettings
from .unet_calls import Branch, UNetCalls
from .unet_patches import DualDirectionInjections, injected, temporal_attention_layers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What all evaluations of one sampling run share.

    `weights`: w of the fusion, `[frames, 1, 1, 1]`; `guided_sigmas`: the lowest and the highest σ with guidance;
    `last_keyframe`: `[1, 4, h, w]`, as the sampled latents hold it; `middle_correction`: what keyframes inside the clip
    make of an estimate in forward time, None where there are none.
    """

    weights: torch.Tensor
    guidance: Guidance
    guided_sigmas: tuple[float, float]
    last_keyframe: torch.Tensor
    unet_calls: UNetCalls
    progress: EvaluationProgress
    middle_correction: Callable[[torch.Tensor], torch.Tensor] | None


class DualDirectionGuider(comfy.samplers.CFGGuider):
    """GUIDER that runs SVD forward from the first and backward from the last keyframe and fuses both.

    Without a first keyframe it runs SVD backward from the last one.

    Raises ValueError, naming the input, when the model is no SVD, lacks backward-motion weights that the settings ask
    for, or when the conditioning cannot be used in both directions.
    """

    def __init__(
        self,
        model: ModelPatcher,
        positive: Conditioning,
        negative: Conditioning,
        settings: GuiderSettings,
    ):
        check_model(model, settings)
        super().__init__(model)
        self.settings = settings
        for name, conditioning in (("positive", positive), ("negative", negative)):
            check_conditioning(conditioning, name)
        self._keyframes = {"positive": positive, "negative": negative}
        self.inner_set_conds(
            {
                "positive": positive,
                "negative": negative,
                "positive_backward": backward_conditioning(positive, "positive"),
                "negative_backward": backward_conditioning(negative, "negative"),
            }
        )
        self._has_first_keyframe = has_first_keyframe(positive, negative)
        if settings.needs_both_keyframes:
            check_both_keyframes(positive, self._has_first_keyframe)
        self._middle_keyframes = middle_keyframe_latents(positive, self.model_patcher.model.process_latent_in)
        self.set_cfg(far_scale(settings.fusion, settings.guidance_min, settings.guidance_max))
        # Last: for hooks the host takes another MODEL, one without dynamic VRAM.
        self.model_patcher = beside_its_weights(self.model_patcher)
        self._running: Run | None = None

    def sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: comfy.samplers.Sampler,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        callback: Callback | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> torch.Tensor:
        """As the host's guider; `callback(evaluation, x0, x, evaluations)` counts UNet evaluations, not steps.

        `seed`: the one that `noise` was drawn from; what the sampler draws comes from another stream of it.
        Raises ValueError, before the first step, when latent, mask or embeddings do not fit the keyframes or the model.
        """
        check_samples(latent_image)
        denoise_mask = checked_mask(denoise_mask)
        for name, conditioning in self._keyframes.items():
            check_latent(conditioning, name, latent_image)
            check_embedding(conditioning, name, embedding_width(self.model_patcher))
        check_one_video_fits(self.model_patcher, latent_image.shape)
        if self.settings.alternating:
            clean = clean_keyframe_latents(self._keyframes["positive"], self.model_patcher.model.process_latent_in)
            # Of a run in several parts only the first one has the first steps.
            distillation = None if _goes_on(noise, sigmas) else self.settings.distillation
            sampler = AlternatingSampler(sampler, clean, distillation)
        seed = stream_seed(seed or 0, *_streams_of_sampler(noise, sigmas))
        # A clone of our own carries the method's injections while it samples.
        model, self.model_patcher = self.model_patcher, self.model_patcher.clone()
        try:
            # In the host's SamplerCustomAdvanced no node of ours runs.
            with remarks_on_node(), naming_failures(self.model_options):
                return super().sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
        finally:
            self.model_patcher = model

    def inner_sample(
        self, noise, latent_image, device, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, *args, **kwargs
    ) -> torch.Tensor:
        """As the host's, with the method in the UNet meanwhile and nothing left behind afterwards."""
        frames, settings = noise.shape[0], self.settings
        self._log_replaced_guidance()
        steps = max(len(sigmas) - 1, 0)
        sampler_steps = sampler.sampler_steps(steps) if hasattr(sampler, "sampler_steps") else steps
        injections = DualDirectionInjections.of(self.model_patcher, self._backward_projections)
        with (
            EvaluationProgress(callback, sampler_steps, disable_pbar) as progress,
            injected(self.model_patcher, injections),
        ):
            self._running = Run(
                fusion_weights(settings.fusion, frames).to(device),
                Guidance.of_settings(settings.fusion, frames, settings.guidance_min, settings.guidance_max, device),
                self._guidance_interval(),
                self._keyframe_latents().last.to(device),
                UNetCalls(
                    self.model_patcher,
                    injections,
                    self.model_options,
                    noise.shape,
                    settings.videos_per_call,
                    settings.temporal_attention,
                    self._shared_identities(),
                ),
                progress,
                self._middle_correction(frames, device, denoise_mask),
            )
            try:
                return super().inner_sample(
                    noise,
                    latent_image,
                    device,
                    sampler,
                    sigmas,
                    denoise_mask,
                    lambda step, x0, x, total: progress.stepped(x0, x),
                    # Our bar counts evaluations, so the sampler's own, which counts its steps, stays off.
                    True,
                    seed,
                    *args,
                    **kwargs,
                )
            finally:
                self._running = None

    @property
    def run(self) -> Run:
        """The run in progress. Raises RuntimeError outside of one."""
        if self._running is None:
            raise RuntimeError("The dual-direction guider evaluates only while it samples.")
        return self._running

    def predict_noise(
        self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict | None = None, seed: int | None = None
    ) -> torch.Tensor:
        """D: the fused estimate of the denoised latents, `[frames, 4, h, w]`, from noisy latents of the same shape.

        With ONE_DIRECTION among the model options, the estimate of that direction, in forward time.
        """
        run, model_options = self.run, model_options or {}
        # 1. Which directions, and how strongly each is guided at this noise level.
        only = model_options.get(ONE_DIRECTION)
        directions = (only,) if only else self._directions()
        guidance = self._guidance_at(timestep)
        guided = guidance.needed or model_options.get("disable_cfg1_optimization", False)
        # 2. D_c and D_u of each direction in its own time, each [frames, 4, h, w].
        estimates = self._estimates(x, timestep, model_options, guided, directions)
        # 3. D_f and D_b = D_u + g (D_c − D_u), with what other nodes do about guidance.
        node_functions = functions_of_nodes(self.model_options)
        contexts = {
            direction: self._context(direction, x, timestep, model_options, guided)
            for direction in {"forward", *directions}
        }
        denoised, halves = {}, {}
        for direction in directions:
            conditional, unconditional = estimates["positive", direction], estimates.get(("negative", direction))
            denoised[direction], halves[direction] = guide(
                contexts[direction], conditional, unconditional, guidance, node_functions
            )
        # 4. D = w · D_f + (1 − w) · reverse_time(D_b), in forward time.
        result = self._fused(denoised)
        # 5. D ← D + W (z − D[m]) for keyframes z inside the clip.
        if run.middle_correction is not None:
            result = run.middle_correction(result)
        # 6. What the sampler itself adds to guidance, such as CFG++, sees both directions as one.
        sampler_functions = functions_of_sampler(model_options, node_functions)
        if sampler_functions:
            context = replace(contexts["forward"], model_options=model_options)
            joined = [self._fused({each: halves[each][half] for each in directions}) for half in (0, 1)]
            for function in sampler_functions:
                result = context.after(function, result, joined, guidance.scale)
        run.progress.evaluated(result, x)
        return result

    def _estimates(
        self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict, guided: bool, directions: tuple[str, ...]
    ) -> dict[Branch, torch.Tensor]:
        """D_c (positive) and, where `guided`, D_u (negative) of each direction in its own time."""
        run, corrected = self.run, self.settings.endpoint_correction
        computed = ("forward",) if corrected else directions
        conditionings = {
            (half, direction): self.conds[_name(half, direction)]
            for direction in computed
            for half in ("positive", "negative")
            if guided or half == "positive"
        }
        estimates = run.unet_calls.estimates(conditionings, x, timestep, model_options)
        if corrected:
            estimates |= {
                (half, "backward"): endpoint_correction(forward, run.last_keyframe)
                for (half, _), forward in estimates.items()
            }
        return estimates

    def _fused(self, estimates: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One estimate in forward time of one or two in their own time; without a first keyframe the backward one."""
        if len(estimates) == 2 and self._has_first_keyframe:
            return fuse(estimates["forward"], estimates["backward"], self.run.weights)
        return reverse_time(estimates["backward"]) if "backward" in estimates else estimates["forward"]

    def _directions(self) -> tuple[str, ...]:
        """The directions of an evaluation: without a first keyframe the forward one is needed for its maps alone."""
        if self._has_first_keyframe or self.settings.temporal_attention == "rotated":
            return ("forward", "backward")
        return ("backward",)

    def _guidance_at(self, timestep: torch.Tensor) -> Guidance:
        """The guidance at noise level σ = `timestep`: none outside the guidance interval."""
        if not isinstance(self.cfg, OwnScale):
            # A node such as CFGOverride has set another number for this evaluation.
            return Guidance.constant(self.cfg)
        lowest, highest = self.run.guided_sigmas
        # For the whole range the device tensor is not read: that would force a sync at every evaluation.
        if (lowest == 0 and highest == math.inf) or lowest <= float(timestep.max()) <= highest:
            return self.run.guidance
        return Guidance.off()

    def _guidance_interval(self) -> tuple[float, float]:
        """(lowest, highest) σ with guidance (Kynkäänniemi et al., arXiv 2404.07724)."""
        settings, sampling = self.settings, self.inner_model.model_sampling
        highest = sampling.percent_to_sigma(settings.guidance_start) if settings.guidance_start > 0 else math.inf
        lowest = sampling.percent_to_sigma(settings.guidance_end) if settings.guidance_end < 1 else 0.0
        return float(lowest), float(highest)

    def _context(
        self, direction: str, x: torch.Tensor, timestep: torch.Tensor, model_options: dict, guided: bool
    ) -> GuidanceContext:
        """What other nodes' functions see of one direction."""
        # With endpoint correction the model computes the forward direction only.
        corrected = direction == "backward" and self.settings.endpoint_correction
        computed = "forward" if corrected else direction
        from_forward = partial(endpoint_correction, last_keyframe=self.run.last_keyframe) if corrected else None
        options = create_model_options_clone(model_options)
        options.pop("multigpu_clones", None)
        wrapper = self.run.unet_calls.wrapper_in_own_time(
            direction, model_options.get("model_function_wrapper"), from_forward
        )
        return GuidanceContext(
            self.inner_model,
            self.conds[_name("positive", computed)],
            self.conds[_name("negative", computed)] if guided else None,
            reverse_time(x) if direction == "backward" else x,
            timestep,
            {**options, "model_function_wrapper": wrapper},
        )

    def _backward_projections(self, layer: str) -> BackwardProjections | None:
        attached = self.model_patcher.get_attachment(ATTACHMENT)
        if attached is None or not self.settings.backward_motion or attached.strength == 0:
            return None
        difference = attached.weights.layer(f"diffusion_model.{layer}")
        return BackwardProjections(difference["to_v"], difference["to_out"], attached.strength)

    def _keyframe_latents(self) -> KeyframeLatents:
        return keyframe_latents(self._keyframes["positive"], self.model_patcher.model.process_latent_in)

    def _middle_correction(
        self, frames: int, device: torch.device, mask: torch.Tensor | None
    ) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What keyframes inside the clip make of an estimate in forward time; None where there are none."""
        middle = self._middle_keyframes
        if middle is None:
            return None
        ends = (0, frames - 1) if self._has_first_keyframe else (frames - 1,)
        weights = correction_weights(frames, middle.positions, middle.strengths, ends)
        return partial(
            middle_keyframe_correction,
            keyframes=middle.latents.to(device),
            positions=middle.positions,
            weights=weights.float().to(device),
            mask=mask,
        )

    def _shared_identities(self) -> dict[object, object]:
        """{the host's id of a backward conditioning: that of the same one forward}."""
        return {
            backward["uuid"]: forward["uuid"]
            for half in ("positive", "negative")
            for forward, backward in zip(
                self.original_conds[half], self.original_conds[_name(half, "backward")], strict=True
            )
        }

    def _log_replaced_guidance(self) -> None:
        """Says where another node's guidance function makes `guidance_min` count for nothing."""
        settings, function = self.settings, self.model_options.get("sampler_cfg_function")
        if (
            function is not None
            and FUSIONS[settings.fusion].ramps_guidance
            and settings.guidance_min != settings.guidance_max
        ):
            logger.info(
                "Dual-direction sampling: %s takes the place of guidance that rises from guidance_min to "
                "guidance_max. It gets one scale, guidance_max.",
                nodes_behind([function]),
            )


def check_model(model: ModelPatcher, settings: GuiderSettings) -> None:
    """Raises ValueError when the model is no SVD, lacks backward-motion weights, or carries what cannot be used."""
    if not temporal_attention_layers(model.model) or not isinstance(model.model, comfy.model_base.SVD_img2vid):
        raise ValueError(
            f"model: expected Stable Video Diffusion, found {type(model.model).__name__}. Connect Load SVD Model."
        )
    if settings.backward_motion and model.get_attachment(ATTACHMENT) is None:
        raise ValueError(
            "model: expected backward-motion weights, found a model without them. Put Load Backward "
            "Motion Weights between Load SVD Model and this node, or choose a strategy that needs none: "
            + ", ".join(f"`{name}`" for name in TRAINING_FREE)
            + "."
        )
    check_additions(model, settings.alternating)


def _name(half: str, direction: str) -> str:
    """The name by which the host's guider holds the conditioning of a branch."""
    return half if direction == "forward" else f"{half}_backward"


def _goes_on(noise: torch.Tensor, sigmas: torch.Tensor) -> bool:
    """Whether a run goes on from another's latents: it has no noise and, by the host's DisableNoise, the seed 0."""
    return len(sigmas) > 0 and not torch.count_nonzero(noise)


def _streams_of_sampler(noise: torch.Tensor, sigmas: torch.Tensor) -> tuple[str, ...]:
    return ("sampler", f"from {float(sigmas[0]):.6g}") if _goes_on(noise, sigmas) else ("sampler",)
