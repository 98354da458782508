"""Nodes that sample in both directions."""

from comfy_api.latest import io

from ..sampler.guider import DualDirectionGuider
from ..sampler.ksampler import check_sampler, dual_direction_ksampler
from ..sampler.method.reinjection import Reinjection
from ..sampler.samplers import ReinjectionSampler
from ..sampler.settings import chosen_settings, guider_settings
from . import inputs
from .node import Node
from .schema import schema


def _both_directions() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip=inputs.MODEL),
        io.Conditioning.Input("positive", tooltip="The keyframes, from Encode Keyframes."),
        io.Conditioning.Input("negative", tooltip="The negative output of the same Encode Keyframes."),
    ]


class InbetweenDualDirectionKSampler(Node):
    """Dual-Direction KSampler."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenDualDirectionKSampler",
            display_name="Dual-Direction KSampler",
            search_aliases=["generative inbetweening", "keyframe interpolation"],
            description="Samples the video between two keyframes: forward from the first, backward from the last, "
            "joined into one video. A preset says how; settings of your own come from Dual-Direction Settings.",
            inputs=[
                *_both_directions(),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latent output of the same Encode Keyframes, or a video's "
                    "latent of as many frames for denoise below 1.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=inputs.LARGEST_SEED,
                    control_after_generate=True,
                    tooltip=("Seed of all noise. The same seed gives the same video."),
                ),
                inputs.preset(),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1: from pure noise. Lower keeps more of the latent's own video; 0 keeps all of it.",
                ),
                inputs.settings(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The video's latents, for VAE Decode.")],
        )

    @classmethod
    def execute(cls, model, positive, negative, latent_image, seed, preset, denoise, settings=None):
        chosen = settings or chosen_settings(preset)
        return io.NodeOutput(dual_direction_ksampler(model, positive, negative, latent_image, seed, denoise, chosen))


class InbetweenSettings(Node):
    """Dual-Direction Settings."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenSettings",
            display_name="Dual-Direction Settings",
            search_aliases=["generative inbetweening", "sampler settings"],
            description="All settings of Dual-Direction KSampler and Inbetween Keyframe Sequence, in place of their "
            "preset. Choose a preset to start from.",
            inputs=inputs.all_settings(),
            outputs=[
                inputs.Settings.Output(
                    display_name="settings",
                    tooltip="For the input settings of Dual-Direction KSampler and Inbetween Keyframe Sequence.",
                )
            ],
        )

    @classmethod
    def execute(cls, preset, **chosen):
        settings = chosen_settings(preset, **chosen)
        check_sampler(settings)
        return io.NodeOutput(settings)


class InbetweenDualDirectionGuider(Node):
    """Dual-Direction Guider."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenDualDirectionGuider",
            display_name="Dual-Direction Guider",
            search_aliases=["generative inbetweening"],
            description="The guider for SamplerCustomAdvanced: the same as the Dual-Direction KSampler, with your own "
            "noise, sigmas and sampler. Put the Noise Re-injection Sampler around the sampler.",
            inputs=[
                *_both_directions(),
                *inputs.guidance_and_fusion(),
                *inputs.method(),
                *inputs.guidance_interval(),
                *inputs.distillation(),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model, positive, negative, **chosen):
        return io.NodeOutput(DualDirectionGuider(model, positive, negative, guider_settings(**chosen)))


class InbetweenReinjectionSampler(Node):
    """Noise Re-injection Sampler."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenReinjectionSampler",
            display_name="Noise Re-injection Sampler",
            search_aliases=["time travel sampler", "generative inbetweening"],
            description="Repeats the early steps of any sampler with new noise. By the paper, this makes both "
            "directions agree in the middle of the video.",
            inputs=[
                io.Sampler.Input("sampler", tooltip="The sampler to repeat, from KSamplerSelect."),
                *inputs.reinjection(),
                *inputs.jumps(),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, sampler, reinjections, reinjection_share, jump_length=1, repeat_first_step=True, noise_ratio=1.0):
        reinjection = Reinjection(reinjections, reinjection_share, jump_length, repeat_first_step, noise_ratio)
        return io.NodeOutput(ReinjectionSampler(sampler, reinjection))
