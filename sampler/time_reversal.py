"""Running a video model backward: its input reversed in time, its result reversed back (section 4.2 of the paper)."""

import torch


def reverse_time(frames: torch.Tensor) -> torch.Tensor:
    """The same clip from its last frame to its first; `[frames, …]`. Twice is the identity."""
    return frames.flip(0)


def reverse_sequences(sequences: torch.Tensor) -> torch.Tensor:
    """The tokens of temporal attention in reversed time; `[positions, frames, channels]`."""
    return sequences.flip(1)
