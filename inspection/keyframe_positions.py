"""Where the keyframes stand in a video, as a user writes it."""

from ..common.errors import quoted


def frame_positions(text: str, frames: int, name: str) -> list[int]:
    """`"0, 24, -1"` → rising positions 0…frames − 1 without repetitions; −1 is the last frame; empty text: none.

    Raises ValueError, naming the input, for anything else or a position that the clip does not have.
    """
    try:
        positions = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(
            f"{name}: expected positions of frames, such as 0, 24, -1, found {quoted(text)}. Write "
            "numbers with commas between them."
        ) from error
    for position in positions:
        if not -frames <= position < frames:
            raise ValueError(
                f"{name}: expected positions from 0 to {frames - 1}, or from -1 back to {-frames}, as the "
                f"video has {frames} frames, found {quoted(position)}. Use positions in that range."
            )
    return sorted({position % frames for position in positions})
