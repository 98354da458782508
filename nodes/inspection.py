"""Nodes that show a finished video: all frames on a sheet, and plots of its course."""

from comfy_api.latest import io, ui

from ..inspection.keyframe_positions import frame_positions
from ..inspection.report import report
from ..inspection.sheet import contact_sheet
from .node import Node
from .schema import schema


def _keyframes() -> io.Input:
    return io.String.Input(
        "keyframes",
        default="0, -1",
        tooltip=(
            "Positions of the keyframes, from 0; -1 is the last frame. 0, -1 for a video between two keyframes; "
            "0, 24, 48 for three keyframes with 25 frames a segment."
        ),
    )


class InbetweenContactSheet(Node):
    """Inbetween Contact Sheet."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenContactSheet",
            display_name="Inbetween Contact Sheet",
            is_output_node=True,
            search_aliases=["image grid", "frames grid"],
            description="All frames of a video in one picture, numbered, the keyframes marked.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of the video."),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=100,
                    tooltip=("Frames in a row. 0: as many as make the sheet about 16 : 9; 4 to 8 is a good range."),
                ),
                _keyframes(),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="The contact sheet, one picture.")],
        )

    @classmethod
    def execute(cls, images, columns, keyframes):
        sheet = contact_sheet(images, columns, frame_positions(keyframes, len(images), "keyframes"))
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet, cls=cls))


class InbetweenReport(Node):
    """Inbetween Report."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="InbetweenReport",
            display_name="Inbetween Report",
            is_output_node=True,
            search_aliases=["ghosting", "video statistics"],
            description="Three plots of a video: how much each frame changes, how far it is from the keyframes, and "
            "where it looks like both keyframes shining through each other.",
            inputs=[io.Image.Input("images", tooltip="The frames of the video."), _keyframes()],
            outputs=[io.Image.Output(display_name="plots", tooltip="The plots, one picture.")],
        )

    @classmethod
    def execute(cls, images, keyframes):
        plots = report(images, frame_positions(keyframes, len(images), "keyframes"))
        return io.NodeOutput(plots, ui=ui.PreviewImage(plots, cls=cls))
