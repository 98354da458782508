"""The released method's two UNets in diffusers: one keeps its temporal attention maps, the other applies them.

What they share is `share_maps`. Each benchmark makes its own two: with the weights of ours (`speed/contestants.py`), on
the meta device (`speed/full_size.py`), or as one frozen and one trained (`training_memory/steps.py`).
"""

from collections.abc import Callable

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention

from ...training.svd import temporal_self_attentions

# SVD's architecture at 0.4 of its width, 241 M parameters: long enough calls to measure, small enough for a CPU.
MIDDLE_SIZE = {
    "block_out_channels": (128, 256, 512, 512),
    "num_attention_heads": (2, 4, 8, 8),
    "cross_attention_dim": 256,
}


class _Maps:
    """Attention processor. `put` keeps a map, or `take` gives the one to be turned."""

    def __init__(self, put: Callable | None, take: Callable | None):
        self.put, self.take = put, take

    def __call__(self, attention: Attention, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        def project(layer, x):
            # Trained matrices may be more precise than the rest.
            return torch.nn.functional.linear(x, layer.weight.to(x.dtype), layer.bias)

        if self.put:
            query, key = (
                attention.head_to_batch_dim(layer(hidden_states)) for layer in (attention.to_q, attention.to_k)
            )
            probabilities = attention.get_attention_scores(query, key)
            self.put(probabilities)
        else:
            probabilities = self.take().flip((-2, -1))
        value = attention.head_to_batch_dim(project(attention.to_v, hidden_states))
        return project(attention.to_out[0], attention.batch_to_head_dim(probabilities @ value))


def share_maps(
    forward: UNetSpatioTemporalConditionModel, backward: UNetSpatioTemporalConditionModel, keep: bool = False
) -> None:
    """Lets the first UNet keep its maps and the second apply them; `keep`: they may be asked for again.

    Backward passes ask again, with gradient checkpointing.
    """
    maps: dict[str, torch.Tensor] = {}
    take = maps.__getitem__ if keep else maps.pop
    for name, layer in temporal_self_attentions(forward).items():
        layer.set_processor(_Maps(lambda probabilities, name=name: maps.update({name: probabilities}), None))
    for name, layer in temporal_self_attentions(backward).items():
        layer.set_processor(_Maps(None, lambda name=name: take(name)))
