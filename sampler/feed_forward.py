"""A transformer's feed-forward part in pieces: the same numbers, and in SVD half the memory of a UNet call.

It looks at every token alone, but widens it to 8 times its channels on the way. At 1024×576, 25 frames, all tokens at
once make it what takes the most memory in the whole UNet by far.
"""

from collections.abc import Callable

import torch

# Enough for a GPU to be busy, little beside the clip: 0.3 GiB in SVD's widest part at the highest resolution, in fp16.
TOKENS_AT_ONCE = 2**15


def in_pieces(feed_forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same function of tokens `[batch, length, channels]`, a part of the batch at a time where it is large."""

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        batch, length, _ = tokens.shape
        at_once = max(1, TOKENS_AT_ONCE // length)
        # A compiler would write out the loop, and needs it less: it keeps fewer of the wide tensors.
        if batch <= at_once or torch.compiler.is_compiling():
            return feed_forward(tokens)
        result = None
        for start in range(0, batch, at_once):
            piece = feed_forward(tokens[start : start + at_once])
            if result is None:
                result = piece.new_empty(batch, *piece.shape[1:])
            result[start : start + at_once] = piece
        return result

    return forward
