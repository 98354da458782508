"""The nodes that turn pictures into conditioning."""

from comfy_api.latest import io

from ..sampler.keyframes import add_middle_keyframe, encode_keyframes
from ..sampler.unusual_input import remark_on_aspect, remark_on_keyframes
from . import inputs
from .node import Node
from .schema import schema


class InbetweenMiddleKeyframe(Node):
    """Middle Keyframe."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenMiddleKeyframe",
            display_name="Middle Keyframe",
            search_aliases=["guide frame", "keyframe at a frame", "inbetweening"],
            description="A picture that a clip passes through, at a frame between its first and its last, for Encode "
            "Keyframes. For a video of several clips take Keyframe.",
            inputs=[
                io.Image.Input("image", tooltip="The picture. One picture, of the same scene."),
                inputs.MiddleKeyframes.Input(
                    "middle_keyframes", optional=True, tooltip="The clip's other middle keyframes, in any order."
                ),
                io.Int.Input(
                    "frame",
                    default=12,
                    min=1,
                    max=1022,
                    tooltip="The frame that it stands at. The first keyframe is frame 0; of 25 frames the last is 24.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How closely the video follows it. 0: not at all; 1: that frame is the picture.",
                ),
            ],
            outputs=[
                inputs.MiddleKeyframes.Output(
                    display_name="middle_keyframes",
                    tooltip="All of them, for Encode Keyframes or one more Middle Keyframe.",
                )
            ],
        )

    @classmethod
    def execute(cls, image, frame, strength, middle_keyframes=()):
        return io.NodeOutput(add_middle_keyframe(middle_keyframes, image, frame, strength))


class InbetweenEncodeKeyframes(Node):
    """Encode Keyframes."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenEncodeKeyframes",
            display_name="Encode Keyframes",
            search_aliases=["first last frame", "inbetweening"],
            description="Encodes the first and the last picture of the video and those between them, or the last "
            "alone. A plain KSampler uses only the first.",
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="The CLIP image encoder, from Load SVD Model."),
                io.Vae.Input("vae", tooltip="The VAE, from Load SVD Model."),
                io.Image.Input(
                    "first_keyframe",
                    optional=True,
                    tooltip="The picture that the video starts with. One picture. Without it the video leads up to the "
                    "last picture, from wherever the model begins.",
                ),
                io.Image.Input(
                    "last_keyframe",
                    optional=True,
                    tooltip="The picture that the video ends with. One picture. It cannot be left out.",
                ),
                inputs.MiddleKeyframes.Input(
                    "middle_keyframes",
                    optional=True,
                    tooltip="Pictures that the video passes through between the two keyframes, from Middle Keyframe.",
                ),
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
                inputs.separate_noise(),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="All keyframes."),
                io.Conditioning.Output(display_name="negative", tooltip="The unconditional counterpart."),
                io.Latent.Output(display_name="latent", tooltip="An empty latent of the video's size."),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip_vision,
        vae,
        width,
        height,
        frames,
        fps,
        motion_bucket,
        noise_augmentation,
        seed,
        fit,
        first_keyframe=None,
        last_keyframe=None,
        middle_keyframes=(),
        separate_noise=False,
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
            middle=middle_keyframes,
            separate_noise=separate_noise,
        )
        remark_on_keyframes(first_keyframe, last_keyframe, width, height, frames, fit)
        for keyframe in (each for each in middle_keyframes if each.strength > 0):
            remark_on_aspect(keyframe.picture, width, height, fit, "middle_keyframes")
        return io.NodeOutput(*encoded)
