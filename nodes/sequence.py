"""The nodes of many keyframes: the chain of them, and the video through all."""

from comfy_api.latest import io

from ..sampler.settings import chosen_settings
from ..sequence.keyframe_chain import LONGEST, KeyframeChain
from ..sequence.request import ClipSettings
from ..sequence.run import sample_sequence
from . import inputs
from .node import Node
from .schema import advanced, schema


class InbetweenKeyframe(Node):
    """Keyframe."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenKeyframe",
            display_name="Keyframe",
            search_aliases=["keyframe chain", "many keyframes", "storyboard"],
            description="A keyframe of a sequence: its picture, and how far it is from the next. Chain as many as you "
            "like, each into the next, and the last into Inbetween Keyframe Sequence.",
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The picture, of any size and aspect: the sequence fits it to the video. Of a batch each "
                    "picture becomes a keyframe, in their order.",
                ),
                inputs.Keyframes.Input(
                    "keyframes",
                    optional=True,
                    tooltip="The keyframes before this one, from another Keyframe. The first keyframe has none.",
                ),
                io.Int.Input(
                    "frames",
                    default=25,
                    min=2,
                    max=LONGEST,
                    tooltip="Frames from this keyframe to the next, both included. 25 for SVD-XT, 14 for SVD. After "
                    "the last keyframe it counts in a loop only.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip="1: one segment ends here and the next begins. Lower: the motion goes on through the "
                    "keyframe inside a longer segment, which keeps less to the picture. 0: the picture is left out.",
                ),
            ],
            outputs=[
                inputs.Keyframes.Output(
                    display_name="keyframes",
                    tooltip="All keyframes so far, for the next Keyframe or Inbetween Keyframe Sequence.",
                )
            ],
        )

    @classmethod
    def execute(cls, image, frames, strength, keyframes=None):
        return io.NodeOutput((keyframes or KeyframeChain(())).then(image, frames, strength))


class InbetweenKeyframeSequence(Node):
    """Inbetween Keyframe Sequence."""

    @classmethod
    def define_schema(cls):
        fps, motion_bucket, noise_augmentation = inputs.motion()
        return schema(
            node_id="InbetweenKeyframeSequence",
            display_name="Inbetween Keyframe Sequence",
            search_aliases=["seamless loop", "many keyframes", "keyframe interpolation"],
            description="The whole video through many keyframes, or a seamless loop. Finished segments are kept: "
            "queued again after an interruption, it goes on where it stopped.",
            inputs=[
                io.Model.Input("model", tooltip=inputs.MODEL),
                io.ClipVision.Input("clip_vision", tooltip="The CLIP image encoder, from Load SVD Model."),
                io.Vae.Input("vae", tooltip="The VAE, from Load SVD Model."),
                io.MultiType.Input(
                    "keyframes",
                    types=[inputs.Keyframes, io.Image],
                    tooltip=(
                        "A chain of Keyframe nodes, or a batch of pictures in their order. At least 2; 1 is enough for "
                        "a loop, whose motion the model then invents."
                    ),
                ),
                io.String.Input(
                    "frames_per_segment",
                    default="25",
                    tooltip=(
                        "For a batch of pictures; a chain has its own. Frames from one keyframe to the next, both "
                        "included: one number for all, or one for each, such as 8, 14, 8. 25 for SVD-XT, 14 for SVD."
                    ),
                ),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    tooltip=(
                        "On: one more segment leads from the last keyframe back to the first, and the video repeats "
                        "without a seam. Off: the video ends with the last keyframe."
                    ),
                ),
                *inputs.size(),
                motion_bucket,
                inputs.fit(),
                # No new seed after each run: an interrupted run could not be taken up again.
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=inputs.LARGEST_SEED,
                    control_after_generate=False,
                    tooltip=(
                        "Seed of the first segment; the others' are made from it. The same seed gives the same video; "
                        "leave it as it is to take up an interrupted run."
                    ),
                ),
                inputs.preset(),
                *advanced(fps, noise_augmentation, *_parts_of_the_run()),
                inputs.settings(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    tooltip="The whole video, each keyframe once, for Create Video; 7 frames a second suit it.",
                ),
                io.Latent.Output(display_name="latent", tooltip="Its latents, frame by frame."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        clip_vision,
        vae,
        keyframes,
        frames_per_segment,
        loop,
        width,
        height,
        fps,
        motion_bucket,
        noise_augmentation,
        fit,
        seed,
        preset,
        subdivisions,
        resume,
        close_loop=False,
        separate_noise=False,
        settings=None,
    ):
        clip_settings = ClipSettings(
            width,
            height,
            fps,
            motion_bucket,
            noise_augmentation,
            fit,
            seed,
            settings or chosen_settings(preset),
            separate_noise,
        )
        return io.NodeOutput(
            *sample_sequence(
                model,
                clip_vision,
                vae,
                keyframes,
                frames_per_segment,
                loop,
                subdivisions,
                resume,
                clip_settings,
                close_loop,
            )
        )


def _parts_of_the_run() -> list[io.Input]:
    """How often in-betweens are made of in-betweens, whether finished ones are kept, and how a loop ends."""
    return [
        io.Int.Input(
            "subdivisions",
            default=0,
            min=0,
            max=3,
            tooltip=(
                "Passes of in-betweens of in-betweens: each pair of neighbouring frames becomes two keyframes. "
                "0: off; 1 makes 25 frames 577 and takes 25 times as long. The log says the cost first."
            ),
        ),
        io.Boolean.Input(
            "resume",
            default=True,
            tooltip=(
                "On: finished segments are kept in output/inbetween_segments and used again when nothing that "
                "they depend on was changed. Off: everything is sampled anew and nothing is kept."
            ),
        ),
        io.Boolean.Input(
            "close_loop",
            default=False,
            optional=True,
            tooltip=(
                "For frame interpolation after a loop. On: the first frame comes again at the end, so that the seam "
                "gets in-betweens, too; drop one of the two after the interpolation. Off: the video repeats as it is."
            ),
        ),
        inputs.separate_noise(),
    ]
