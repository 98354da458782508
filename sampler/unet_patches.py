"""Puts the method's attention into the host's UNet for the time of one sampling run, and takes it out again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from comfy.ldm.modules import attention as host_attention

from .feed_forward import in_pieces
from .single_token_attention import single_token_attention
from .temporal_attention import BackwardProjections, UNetCall, dual_direction_attention

UNET_CALL = "inbetween_unet_call"
_TEMPORAL_BLOCK = ".time_stack."


def temporal_attention_layers(unet: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """{name: module} of the temporal self-attentions; 16 in SVD."""
    return {name: module for name, module in unet.named_modules()
            if _TEMPORAL_BLOCK in name and name.endswith(".attn1")}


@contextmanager
def dual_direction_unet(unet: torch.nn.Module,
                        backward_of: Callable[[str], BackwardProjections | None]) -> Iterator[None]:
    """Within it, calls that carry a UNetCall in their transformer options share their temporal attention.

    `backward_of(name)`: what the backward direction adds in one layer. Other calls are not touched, and on leaving,
    by an exception too, every module is as it was before.
    """
    replaced: list[tuple[torch.nn.Module, object]] = []
    try:
        for name, module in temporal_attention_layers(unet).items():
            _replace_forward(module, _temporal_forward(name, module, backward_of(name)), replaced)
        for name, module in unet.named_modules():
            if name.endswith(".attn2") and hasattr(module, "to_q"):
                _replace_forward(module, _cross_forward(module), replaced)
            elif name.endswith((".ff", ".ff_in")):
                _replace_forward(module, in_pieces(module.forward), replaced)
        yield
    finally:
        for module, previous in replaced:
            if previous is None:
                del module.forward
            else:
                module.forward = previous


def _replace_forward(module: torch.nn.Module, forward: Callable, replaced: list) -> None:
    replaced.append((module, module.__dict__.get("forward")))
    module.forward = forward


def _temporal_forward(name: str, module: torch.nn.Module, backward: BackwardProjections | None) -> Callable:
    original = module.forward

    def forward(x, context=None, value=None, mask=None, transformer_options=None):
        options = transformer_options or {}
        call: UNetCall | None = options.get(UNET_CALL)
        if call is None:
            return original(x, context=context, value=value, mask=mask, transformer_options=options)

        def attend(q, k, v):
            # Looked up at every call: other packs exchange the host's attention while it runs.
            return host_attention.optimized_attention(q, k, v, module.heads, attn_precision=module.attn_precision,
                                                      transformer_options=options)

        return dual_direction_attention(name, module, backward, x, call, attend)

    return forward


def _cross_forward(module: torch.nn.Module) -> Callable:
    original = module.forward

    def forward(x, context=None, value=None, mask=None, transformer_options=None):
        options = transformer_options or {}
        if UNET_CALL not in options or context is None or context.shape[1] != 1 or value is not None:
            return original(x, context=context, value=value, mask=mask, transformer_options=options)
        return single_token_attention(module, x, context)

    return forward
