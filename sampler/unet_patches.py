"""The method in the host's UNet: injections that the guider's clone of the MODEL carries while it samples.

The host knows of a patcher's injections. It takes them out while it patches weights (a LoRA, a hook), when it unloads
the UNet, and when it loads another clone of it; then it puts them back. Two things it leaves to us:

- It does not take them out when a run ends, and forgets them when the clone is gone: `injected` takes them out.
- It takes them out in the order in which it put them in. Where another pack's injection replaced the same `forward`,
  the other one has restored the module's own by then: a `forward` that is no longer ours is left as it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from comfy.ldm.modules import attention as host_attention
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection

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
"""Entry of the transformer options: the UNetCall that a call of ours belongs to."""
Forwards = Iterable[tuple[torch.nn.Module, Callable]]
# Enough for a GPU to be busy, little beside the clip: 0.3 GiB in SVD's widest part at the highest resolution, in fp16.
# The number in method/attention.py bounds another tensor: either may change alone.
TOKENS_AT_ONCE = 2**15
_REPLACEMENT = "inbetween_attn1_replacement"
_TEMPORAL_BLOCK = ".time_stack."


@contextmanager
def injected(patcher: ModelPatcher, injections: Mapping[str, PatcherInjection]) -> Iterator[None]:
    """Within it, the patcher carries the injections and its UNet has them. Afterwards neither has, whatever happened.

    Injections that the patcher has already stay; ours come after them.
    """
    with patcher.use_ejected():
        for key, injection in injections.items():
            patcher.set_injections(key, [injection])
    try:
        patcher.inject_model()
        yield
    finally:
        with patcher.use_ejected():
            for key in injections:
                patcher.remove_injections(key)


def dual_direction_injections(
    backward_of: Callable[[str], BackwardProjections | None],
) -> dict[str, PatcherInjection]:
    """What the method changes in the UNet, by the key under which the host's patcher holds it.

    The attentions act in calls that carry a UNetCall in their transformer options; other calls go through them
    unchanged. The feed-forward parts come in pieces in every call, which gives the same numbers.
    `backward_of(layer)`: what the backward direction adds in a temporal attention.
    """
    return {
        "inbetween_attention": _replacing(lambda unet: _attention_forwards(unet, backward_of)),
        "inbetween_feed_forward": _replacing(_feed_forward_forwards),
    }


def _replacing(forwards: Callable[[torch.nn.Module], Forwards]) -> PatcherInjection:
    """An injection that exchanges the `forward` of modules; `forwards(unet)`: the modules with their new ones."""
    # By network: the host gives a patcher's injections to its clones, on other GPUs, too.
    replaced: dict[torch.nn.Module, list[tuple[torch.nn.Module, Callable, Callable | None]]] = {}

    def inject(patcher: ModelPatcher) -> None:
        eject(patcher)
        new = list(forwards(patcher.model.diffusion_model))
        replaced[patcher.model] = [(module, forward, module.__dict__.get("forward")) for module, forward in new]
        for module, forward in new:
            module.forward = forward

    def eject(patcher: ModelPatcher) -> None:
        for module, forward, previous in replaced.pop(patcher.model, []):
            if module.__dict__.get("forward") is not forward:
                continue
            if previous is None:
                del module.forward
            else:
                module.forward = previous

    return PatcherInjection(inject, eject)


def temporal_attention_layers(unet: torch.nn.Module) -> dict[str, host_attention.CrossAttention]:
    """{name: module} of the temporal self-attentions; 16 in SVD."""
    return {
        name: cast("host_attention.CrossAttention", module)
        for name, module in unet.named_modules()
        if _TEMPORAL_BLOCK in name and name.endswith(".attn1")
    }


def _attention_forwards(unet: torch.nn.Module, backward_of: Callable[[str], BackwardProjections | None]) -> Forwards:
    for name, module in temporal_attention_layers(unet).items():
        yield module, _temporal_forward(name, module, backward_of(name))
        block = unet.get_submodule(name.removesuffix(".attn1"))
        yield block, _block_forward(block)
        video = unet.get_submodule(name.partition(_TEMPORAL_BLOCK)[0])
        yield video, _video_forward(video)
    for name, module in unet.named_modules():
        if name.endswith(".attn2") and hasattr(module, "to_q"):
            yield module, _cross_forward(cast("host_attention.CrossAttention", module))


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


def _temporal_forward(
    name: str, module: host_attention.CrossAttention, backward: BackwardProjections | None
) -> Callable:
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


def _replacement(module: host_attention.CrossAttention, options: dict) -> Callable | None:
    """Another node's attention for this call, as `replacement` of `dual_direction_attention`.

    Only calls that guidance functions of other nodes make themselves have one (Perturbed-Attention Guidance is such a
    function): `host_nodes.check_additions` refuses a MODEL that carries one for every call.
    """
    replacement = options.get(_REPLACEMENT)
    if replacement is None:
        return None
    hidden = {"patches", "patches_replace", _REPLACEMENT}
    extra = {key: value for key, value in options.items() if key not in hidden}
    extra |= {"n_heads": module.heads, "dim_head": module.dim_head, "attn_precision": module.attn_precision}

    def replaced(q, k, v, video: int):
        return replacement(q, k, v, {**extra, "cond_or_uncond": [options["cond_or_uncond"][video]]})

    return replaced


def _cross_forward(module: host_attention.CrossAttention) -> Callable:
    original = module.forward

    def forward(x, context=None, value=None, mask=None, transformer_options=None):
        options = transformer_options or {}
        if UNET_CALL not in options or context is None or context.shape[1] != 1 or value is not None:
            return original(x, context=context, value=value, mask=mask, transformer_options=options)
        return single_token_attention(module, x, context)

    return forward


def _feed_forward_forwards(unet: torch.nn.Module) -> Forwards:
    for name, module in unet.named_modules():
        if name.endswith((".ff", ".ff_in")):
            yield module, in_pieces(module.forward)


def in_pieces(feed_forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A transformer's feed-forward part, of tokens `[batch, length, channels]`, in pieces of a large batch.

    The numbers are the same, and a UNet call of SVD takes half the memory: the part looks at every token alone, but
    widens it to 8 times its channels. At 1024×576, 25 frames, all tokens at once are what takes the most memory in the
    whole UNet by far.
    """

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        batch, length, _ = tokens.shape
        at_once = max(1, TOKENS_AT_ONCE // length)
        # A compiler would write out the loop, and needs it less: it keeps fewer of the wide tensors.
        if batch <= at_once or torch.compiler.is_compiling():
            return feed_forward(tokens)
        piece = feed_forward(tokens[:at_once])
        result = piece.new_empty(batch, *piece.shape[1:])
        result[:at_once] = piece
        for start in range(at_once, batch, at_once):
            piece = feed_forward(tokens[start : start + at_once])
            result[start : start + at_once] = piece
        return result

    return forward
