"""The node that turns two pictures into conditioning."""

from comfy_api.latest import io

from ..sampler.keyframes import encode_keyframes
from ..sampler.unusual_input import remark_on_keyframes
from . import inputs
from .node import Node
from .schema import schema


class InbetweenEncodeKeyframes(Node):
    """Encode Keyframes."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenEncodeKeyframes",
            display_name="Encode Keyframes",
            search_aliases=["first last frame", "inbetweening"],
            description="Encodes the first and the last picture of the video. The conditioning carries both; a plain "
            "KSampler uses only the first.",
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="The CLIP image encoder, from Load SVD Model."),
                io.Vae.Input("vae", tooltip="The VAE, from Load SVD Model."),
                io.Image.Input("first_keyframe", tooltip="The picture that the video starts with. One picture."),
                io.Image.Input("last_keyframe", tooltip="The picture that the video ends with. One picture."),
                *inputs.size(),
                io.Int.Input(
                    "frames",
                    default=25,
                    min=2,
                    max=1024,
                    tooltip=("Frames of the video, both keyframes included. 25 for SVD-XT, 14 for SVD."),
                ),
                *inputs.motion(),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=inputs.LARGEST_SEED,
                    control_after_generate=True,
                    tooltip=(
                        "Seed of the noise on the keyframes. It changes details only; the sampler's seed changes the "
                        "video."
                    ),
                ),
                inputs.fit(),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="Both keyframes."),
                io.Conditioning.Output(display_name="negative", tooltip="The unconditional counterpart."),
                io.Latent.Output(display_name="latent", tooltip="An empty latent of the video's size."),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip_vision,
        vae,
        first_keyframe,
        last_keyframe,
        width,
        height,
        frames,
        fps,
        motion_bucket,
        noise_augmentation,
        seed,
        fit,
    ):
        encoded = encode_keyframes(
            clip_vision,
            vae,
            first_keyframe,
            last_keyframe,
            width=width,
            height=height,
            frames=frames,
            fps=fps,
            motion_bucket=motion_bucket,
            noise_augmentation=noise_augmentation,
            seed=seed,
            fit=fit,
        )
        remark_on_keyframes(first_keyframe, last_keyframe, width, height, frames, fit)
        return io.NodeOutput(*encoded)
