"""Cross-attention to a single token, exactly, without its queries, keys and softmax.

SVD's context is one CLIP image token. The softmax over one score is 1, so the attention's result is O · V · context for
every query: `to_q`, `to_k` and the attention itself drop out.
"""

import torch

from .temporal_attention import Projections


def single_token_attention(projections: Projections, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """O · V · context for every token.

    `tokens`: `[batch, length, channels]`; `context`: `[batch, 1, context channels]`; result as `tokens`.
    """
    return projections.to_out(projections.to_v(context)).expand(-1, tokens.shape[1], -1)
