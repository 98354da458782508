"""The method in the host's UNet: injections that the guider's clone of the MODEL carries while it samples.

The host knows of a patcher's injections. It takes them out while it patches weights (a LoRA, a hook), when it unloads
the UNet, and when it loads another clone of it; then it puts them back. Four things it leaves to us:

- It does not take them out when a run ends, and forgets them when the clone is gone: `injected` takes them out.
- It takes them out in the order in which it put them in. Ours are put in last, on top of other packs', so an entry at
  the first place takes them out first, and each pack finds its own `forward` there.
- It may unload the UNet in the middle of a call, when a node loads a model there: ours stay in until the call is done.
- A clone that somebody makes of ours during a run carries them, too: they act for the run's own patcher only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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


class ForwardReplacement:
    """Exchanges the `forward` of modules of one patcher's UNet, as often as the host puts it in and takes it out.

    `forwards(unet)`: the modules with their new ones. A `forward` that is no longer ours is left as it is.
    """

    def __init__(self, patcher: ModelPatcher, forwards: Callable[[torch.nn.Module], Forwards]):
        self._patcher, self._forwards = patcher, forwards
        self._replaced: list[tuple[torch.nn.Module, Callable, Callable | None]] = []
        self._calls, self._asked = 0, False

    def inject(self, patcher: ModelPatcher) -> None:
        """The host puts it in."""
        if patcher is not self._patcher:
            return
        self.take_out()
        new = list(self._forwards(patcher.model.diffusion_model))
        self._replaced = [(module, forward, module.__dict__.get("forward")) for module, forward in new]
        for module, forward in new:
            module.forward = forward

    def eject(self, patcher: ModelPatcher) -> None:
        """The host takes it out, or has it taken out when the present call is done."""
        if patcher is not self._patcher:
            return
        if self._calls:
            self._asked = True
        else:
            self.take_out()

    def take_out(self) -> None:
        """Every `forward` is as it was before."""
        replaced, self._replaced, self._asked = self._replaced, [], False
        for module, forward, previous in reversed(replaced):
            if module.__dict__.get("forward") is not forward:
                continue
            if previous is None:
                del module.forward
            else:
                module.forward = previous

    @contextmanager
    def during_call(self) -> Iterator[None]:
        """Within it, the replacement stays in."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            if self._asked and not self._calls:
                self.take_out()


@dataclass(frozen=True)
class DualDirectionInjections:
    """What the method changes in the UNet.

    `attention`: acts in calls that carry a UNetCall in their transformer options; other calls go through it unchanged.
    `feed_forward`: in pieces in every call, which gives the same numbers.
    """

    attention: ForwardReplacement
    feed_forward: ForwardReplacement

    @classmethod
    def of(
        cls, patcher: ModelPatcher, backward_of: Callable[[str], BackwardProjections | None]
    ) -> "DualDirectionInjections":
        """For the UNet of a patcher; `backward_of(layer)`: what the backward direction adds in a temporal attention."""
        return cls(
            ForwardReplacement(patcher, lambda unet: _attention_forwards(unet, backward_of)),
            ForwardReplacement(patcher, _feed_forward_forwards),
        )

    @contextmanager
    def during_call(self) -> Iterator[None]:
        """Within it, both stay in the UNet, even when the host unloads it."""
        with self.attention.during_call(), self.feed_forward.during_call():
            yield

    def entries(self, others: Mapping[str, list[PatcherInjection]]) -> dict[str, list[PatcherInjection]]:
        """The host's table of a patcher's injections: those of `others`, and ours on top of them."""
        first = [PatcherInjection(_nothing, each.eject) for each in (self.feed_forward, self.attention)]
        last = {
            "inbetween_attention": [PatcherInjection(self.attention.inject, self.attention.eject)],
            "inbetween_feed_forward": [PatcherInjection(self.feed_forward.inject, self.feed_forward.eject)],
        }
        return {"inbetween_taken_out_first": first, **others, **last}


@contextmanager
def injected(patcher: ModelPatcher, injections: DualDirectionInjections) -> Iterator[None]:
    """Within it, the patcher carries the injections and its UNet has them; afterwards neither has, whatever comes."""
    others = patcher.injections
    with patcher.use_ejected():
        patcher.injections = injections.entries(others)
    try:
        patcher.inject_model()
        yield
    finally:
        # By hand as well: the host takes out nothing that it believes to be out.
        injections.feed_forward.take_out()
        injections.attention.take_out()
        with patcher.use_ejected():
            patcher.injections = others


def _nothing(patcher: ModelPatcher) -> None:
    pass


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
