"""Where the keyframes stand in a video, as a user writes it."""

from ..common.errors import quoted
from ..common.remarks import remark


def frame_positions(text: str, frames: int, name: str) -> list[int]:
    """`"0, 24, -1"` → rising positions 0…frames − 1 without repetitions; −1 is the last frame; empty text: none.

    A position outside the clip becomes the clip's end on that side, with a remark. Raises ValueError, naming the input,
    for anything else.
    """
    try:
        positions = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(
            f"{name}: expected positions of frames, such as 0, 24, -1, found {quoted(text)}. Write "
            "numbers with commas between them."
        ) from error
    outside = [position for position in positions if not -frames <= position < frames]
    if outside:
        # No error: it would come after the sampling, and the video with it would be lost.
        remark(
            f"{name}: {', '.join(map(quoted, outside))} is outside the video, which has frames 0 to {frames - 1}. Its "
            "end is taken instead."
        )
    return sorted({min(max(position, -frames), frames - 1) % frames for position in positions})
