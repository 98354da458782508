"""Puts the method's attention into the host's UNet for the time of one sampling run, and takes it out again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from comfy.ldm.modules import attention as host_attention

from .feed_forward import in_pieces
from .host_nodes import nodes_behind
from .method.attention import (
    BackwardProjections,
    Tokens,
    UNetCall,
    VideosDivided,
    dual_direction_attention,
    single_token_attention,
)

UNET_CALL = "inbetween_unet_call"
_REPLACEMENT = "inbetween_attn1_replacement"
_TEMPORAL_BLOCK = ".time_stack."


def temporal_attention_layers(unet: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """{name: module} of the temporal self-attentions; 16 in SVD."""
    return {
        name: module for name, module in unet.named_modules() if _TEMPORAL_BLOCK in name and name.endswith(".attn1")
    }


@contextmanager
def dual_direction_unet(
    unet: torch.nn.Module, backward_of: Callable[[str], BackwardProjections | None]
) -> Iterator[None]:
    """Within it, calls that carry a UNetCall in their transformer options share their temporal attention.

    `backward_of(name)`: what the backward direction adds in one layer. Other calls are not touched, and on leaving,
    by an exception too, every module is as it was before.
    """
    replaced: list[tuple[torch.nn.Module, object]] = []
    try:
        for name, module in temporal_attention_layers(unet).items():
            _replace_forward(module, _temporal_forward(name, module, backward_of(name)), replaced)
            block = unet.get_submodule(name.removesuffix(".attn1"))
            _replace_forward(block, _block_forward(block), replaced)
            video = unet.get_submodule(name.partition(_TEMPORAL_BLOCK)[0])
            _replace_forward(video, _video_forward(video), replaced)
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


def _video_forward(transformer: torch.nn.Module) -> Callable:
    original = transformer.forward

    def forward(
        x, context=None, time_context=None, timesteps=None, image_only_indicator=None, transformer_options=None
    ):
        options = {} if transformer_options is None else transformer_options
        call: UNetCall | None = options.get(UNET_CALL)
        # Another node may have divided the batch on its way here; the temporal layers cannot tell from their tokens.
        if (
            call is not None
            and call.frames is not None
            and (timesteps, x.shape[0]) != (call.frames, len(call.videos) * call.frames)
        ):
            raise VideosDivided(
                f"expected {len(call.videos)} videos of {call.frames} frames, found {x.shape[0]} in "
                f"videos of {timesteps}"
            )
        return original(x, context, time_context, timesteps, image_only_indicator, options)

    return forward


def _block_forward(block: torch.nn.Module) -> Callable:
    original = block.forward

    def forward(x, context=None, transformer_options=None):
        options = transformer_options or {}
        replacement = _attn1_replacement(options) if UNET_CALL in options else None
        if replacement is not None:
            # The block would call it instead of its attention, and the method with it.
            options = {
                **options,
                _REPLACEMENT: replacement,
                "patches_replace": {**options["patches_replace"], "attn1": {}},
            }
        return original(x, context=context, transformer_options=options)

    return forward


def _attn1_replacement(options: dict) -> Callable | None:
    """Another node's attention for this block, found as the host finds it."""
    replacements = options.get("patches_replace", {}).get("attn1")
    if not replacements or options.get("block") is None:
        return None
    block = options["block"]
    return replacements.get((block[0], block[1], options.get("block_index", 0)), replacements.get(block))


def _temporal_forward(name: str, module: torch.nn.Module, backward: BackwardProjections | None) -> Callable:
    original = module.forward

    def forward(x, context=None, value=None, mask=None, transformer_options=None):
        options = transformer_options or {}
        call: UNetCall | None = options.get(UNET_CALL)
        if call is None:
            return original(x, context=context, value=value, mask=mask, transformer_options=options)

        def attend(q, k, v):
            # Looked up at every call: other packs exchange the host's attention while it runs.
            return host_attention.optimized_attention(
                q, k, v, module.heads, attn_precision=module.attn_precision, transformer_options=options
            )

        # Attention patches of other nodes hand on three tensors, without them there is one.
        key = x if context is None else context
        tokens = Tokens(x, key, key if value is None else value)
        if tokens.query.shape[:2] != tokens.value.shape[:2] and call.temporal_attention != "own":
            patches = options.get("patches", {}).get("attn1_patch", [])
            raise ValueError(
                f"model: {nodes_behind(patches)} merges or tiles the frames, whose attention map cannot "
                "be rotated then. Disconnect it from the model, or choose temporal_attention own."
            )
        replacement = _replacement(module, options)
        return dual_direction_attention(name, module, backward, tokens, call, attend, replacement)

    return forward


def _replacement(module: torch.nn.Module, options: dict) -> Callable | None:
    replacement = options.get(_REPLACEMENT)
    if replacement is None:
        return None
    hidden = {"patches", "patches_replace", _REPLACEMENT}
    extra = {key: value for key, value in options.items() if key not in hidden}
    extra |= {"n_heads": module.heads, "dim_head": module.dim_head, "attn_precision": module.attn_precision}

    def replaced(q, k, v, video: int):
        return replacement(q, k, v, {**extra, "cond_or_uncond": [options["cond_or_uncond"][video]]})

    return replaced


def _cross_forward(module: torch.nn.Module) -> Callable:
    original = module.forward

    def forward(x, context=None, value=None, mask=None, transformer_options=None):
        options = transformer_options or {}
        if UNET_CALL not in options or context is None or context.shape[1] != 1 or value is not None:
            return original(x, context=context, value=value, mask=mask, transformer_options=options)
        return single_token_attention(module, x, context)

    return forward
