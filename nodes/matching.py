"""The node that gives a finished video its keyframes back."""

from comfy_api.latest import io

from ..sequence.keyframe_places import pictures_in_video
from ..sequence.match_keyframes import check_video, match_keyframes
from . import inputs
from .node import Node
from .schema import advanced, schema


class InbetweenMatchKeyframes(Node):
    """Match Keyframes."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenMatchKeyframes",
            display_name="Match Keyframes",
            search_aliases=["exact first last frame", "colour match", "seam", "join clips"],
            description="Makes the keyframes of a finished video exactly the pictures that it was made from. What the "
            "VAE and the model changed there fades out around them, so that clips join with hardly a step.",
            inputs=[
                io.Image.Input("images", tooltip="The whole video, before frames are added or cut off."),
                io.Image.Input(
                    "first_keyframe",
                    optional=True,
                    tooltip="The picture that the video starts with. Not connected: the start stays as it is.",
                ),
                io.Image.Input(
                    "last_keyframe",
                    optional=True,
                    tooltip="The picture that the video ends with. Not connected: the end stays as it is.",
                ),
                inputs.MiddleKeyframes.Input(
                    "middle_keyframes",
                    optional=True,
                    tooltip="The clip's middle keyframes, as Encode Keyframes has them. Those of strength 1 count.",
                ),
                io.MultiType.Input(
                    "keyframes",
                    types=[inputs.Keyframes, io.Image],
                    optional=True,
                    tooltip="The keyframes of a sequence, as Inbetween Keyframe Sequence has them. Those of strength 1 "
                    "count. A loop is known by its number of frames.",
                ),
                io.Int.Input(
                    "frames",
                    default=12,
                    min=1,
                    max=1024,
                    tooltip="Over how many frames the correction fades out, at most up to the next keyframe. 1: only "
                    "the keyframes themselves are replaced; 8 to 24 is a good range.",
                ),
                inputs.fit(),
                *advanced(
                    io.String.Input(
                        "frames_per_segment",
                        default="25",
                        tooltip="For a batch of keyframes, as in Inbetween Keyframe Sequence; a chain has its own. "
                        "With subdivisions: how many frames they made of each segment.",
                    )
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The video, its keyframes exactly the pictures.")],
        )

    @classmethod
    def execute(
        cls,
        images,
        frames,
        fit,
        frames_per_segment,
        first_keyframe=None,
        last_keyframe=None,
        middle_keyframes=(),
        keyframes=None,
    ):
        check_video(images)
        pictures, loop = pictures_in_video(
            images,
            fit,
            first=first_keyframe,
            last=last_keyframe,
            middle=middle_keyframes,
            keyframes=keyframes,
            frames_per_segment=frames_per_segment,
        )
        return io.NodeOutput(match_keyframes(images, pictures, frames, loop))
