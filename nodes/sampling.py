"""Nodes that sample in both directions."""

import comfy.samplers
from comfy_api.latest import io

from ..sampler.fusion import FUSIONS
from ..sampler.guider import DualDirectionGuider
from ..sampler.ksampler import dual_direction_ksampler
from ..sampler.order_of_work import ORDERS
from ..sampler.reinjection_sampler import ReinjectionSampler
from ..sampler.strategies import STRATEGIES, settings_of
from ..sampler.temporal_attention import TEMPORAL_ATTENTIONS
from .schema import schema

_LARGEST_SEED = 0xffffffffffffffff


def _both_directions() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="Stable Video Diffusion with backward-motion weights."),
        io.Conditioning.Input("positive", tooltip="Both keyframes, from Encode Keyframes."),
        io.Conditioning.Input("negative", tooltip="The negative output of the same Encode Keyframes.")]


def _guidance_and_fusion() -> list[io.Input]:
    return [
        io.Float.Input("guidance_min", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=(
            "Guidance scale at the frame next to a direction's own keyframe. 1: none; 1 is a good value.")),
        io.Float.Input("guidance_max", default=3.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=(
            "Guidance scale at the far end. Higher: closer to the keyframe, at last overcooked; 2 to 4 is a good "
            "range. With average fusion the mean of both scales is used everywhere.")),
        io.Combo.Input("fusion", options=list(FUSIONS), default="average", tooltip=(
            "How both directions become one. average: half of each in every frame, as released. weighted: each "
            "direction counts most near its own keyframe."))]


def _method() -> list[io.Input]:
    return [
        io.Combo.Input("strategy", options=list(STRATEGIES), default="dual-direction", tooltip=(
            "dual-direction: with backward-motion weights, the paper's method. time reversal: without them, "
            "training-free.")),
        io.Combo.Input("temporal_attention", options=list(TEMPORAL_ATTENTIONS), default="rotated", tooltip=(
            "Attention over time in the backward direction. rotated: the forward direction's, turned by 180°, as in "
            "the paper. own: the backward direction's own. Time reversal always uses its own.")),
        io.Combo.Input("order_of_work", options=["auto", *ORDERS], default="auto", tooltip=(
            "How the four videos of an evaluation go through the model; the result is the same. auto: by free memory. "
            "batched: all at once. paired: two at a time. sequential: one at a time, least memory."))]


def _reinjection() -> list[io.Input]:
    return [
        io.Int.Input("reinjections", default=5, min=0, max=100, tooltip=(
            "How often noise is added again after an early step and the step repeated. 0: off; 5: as released; more "
            "makes the middle frames more consistent and costs that many more evaluations.")),
        io.Float.Input("reinjection_share", default=0.5, min=0.0, max=1.0, step=0.05, tooltip=(
            "Share of the steps, from the first, that are repeated. 0: none; 0.5: as released."))]


class InbetweenDualDirectionKSampler(io.ComfyNode):
    """Dual-Direction KSampler."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenDualDirectionKSampler", display_name="Dual-Direction KSampler",
            search_aliases=["generative inbetweening", "keyframe interpolation"],
            description="Samples the video between two keyframes: forward from the first, backward from the last, "
                        "both fused at every step. The defaults are the authors' settings.",
            inputs=[
                *_both_directions(),
                io.Latent.Input("latent_image", tooltip="The latent output of the same Encode Keyframes, or a video's "
                                                        "latent of as many frames for denoise below 1."),
                io.Int.Input("seed", default=0, min=0, max=_LARGEST_SEED, control_after_generate=True, tooltip=(
                    "Seed of all noise. The same seed gives the same video.")),
                io.Int.Input("steps", default=50, min=1, max=10000, tooltip=(
                    "Sampling steps. 50: as released; 20 to 50 is a good range.")),
                *_guidance_and_fusion(),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler", tooltip=(
                    "Any of ComfyUI's samplers. euler: as released.")),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="karras", tooltip=(
                    "How the noise levels are spaced. karras: as released.")),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=(
                    "1: from pure noise. Lower: keeps that much of the latent's own video.")),
                *_reinjection(),
                *_method()],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The video's latents, for VAE Decode.")])

    @classmethod
    def execute(cls, model, positive, negative, latent_image, seed, steps, guidance_min, guidance_max, fusion,
                sampler_name, scheduler, denoise, reinjections, reinjection_share, strategy, temporal_attention,
                order_of_work):
        settings = settings_of(strategy, guidance_min, guidance_max, fusion, temporal_attention, order_of_work)
        return io.NodeOutput(dual_direction_ksampler(model, positive, negative, latent_image, seed, steps, sampler_name,
                                                     scheduler, denoise, reinjections, reinjection_share, settings))


class InbetweenDualDirectionGuider(io.ComfyNode):
    """Dual-Direction Guider."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenDualDirectionGuider", display_name="Dual-Direction Guider",
            search_aliases=["generative inbetweening"],
            description="The guider for SamplerCustomAdvanced: the same as the Dual-Direction KSampler, with your own "
                        "noise, sigmas and sampler. Put the Noise Re-injection Sampler around the sampler.",
            inputs=[*_both_directions(), *_guidance_and_fusion(), *_method()],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")])

    @classmethod
    def execute(cls, model, positive, negative, guidance_min, guidance_max, fusion, strategy, temporal_attention,
                order_of_work):
        settings = settings_of(strategy, guidance_min, guidance_max, fusion, temporal_attention, order_of_work)
        return io.NodeOutput(DualDirectionGuider(model, positive, negative, settings))


class InbetweenReinjectionSampler(io.ComfyNode):
    """Noise Re-injection Sampler."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenReinjectionSampler", display_name="Noise Re-injection Sampler",
            search_aliases=["time travel sampler", "generative inbetweening"],
            description="Repeats the early steps of any sampler with new noise, which makes both directions agree in "
                        "the middle of the video.",
            inputs=[io.Sampler.Input("sampler", tooltip="The sampler to repeat, from KSamplerSelect."),
                    *_reinjection()],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustomAdvanced.")])

    @classmethod
    def execute(cls, sampler, reinjections, reinjection_share):
        return io.NodeOutput(ReinjectionSampler(sampler, reinjections, reinjection_share))
