"""Names of the tensors of SVD's UNet: diffusers ↔ ComfyUI, every key, both ways.

diffusers numbers levels and blocks (`down_blocks.1.resnets.0`), ComfyUI one flat list (`input_blocks.4.0`), so the
number of residual blocks in a level is read from the keys themselves. Prefixes such as `model.diffusion_model.` are
removed before these functions are called.
"""

import re
from collections.abc import Iterable

from . import renamed

TEMPORAL_ATTENTION = re.compile(r"^(?P<layer>.+\.time_stack\.\d+\.attn1)\.(?P<matrix>to_v|to_out\.0)\.weight$")

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET_BACK = {comfy: diffusers for diffusers, comfy in _RESNET.items()}
_OUTSIDE_BACK = {comfy: diffusers for diffusers, comfy in _OUTSIDE_BLOCKS.items()}


def is_diffusers(keys: Iterable[str]) -> bool:
    """Whether these UNet keys are in diffusers' names."""
    return any(key.startswith(("down_blocks.", "mid_block.", "up_blocks.")) for key in keys)


def diffusers_to_comfy(keys: Iterable[str]) -> dict[str, str]:
    """{diffusers key: ComfyUI key} for all keys of one SVD UNet.

    Raises WeightsError when a key belongs to no SVD UNet.
    """
    keys = list(keys)
    per_level = 1 + max(
        (int(match[1]) for match in map(re.compile(r"down_blocks\.0\.resnets\.(\d\d?)\.").match, keys) if match),
        default=0,
    )
    return renamed(keys, lambda key: _to_comfy(key, per_level, set(keys)), "UNet", "diffusers")


def comfy_to_diffusers(keys: Iterable[str]) -> dict[str, str]:
    """{ComfyUI key: diffusers key} for all keys of one SVD UNet.

    Raises WeightsError when a key belongs to no SVD UNet.
    """
    keys = list(keys)
    numbers = [int(match[1]) for match in map(re.compile(r"input_blocks\.(\d\d?)\.").match, keys) if match]
    downsamplers = [int(match[1]) for match in map(re.compile(r"input_blocks\.(\d\d?)\.0\.op\.").match, keys) if match]
    per_level = min(downsamplers, default=max(numbers, default=1) + 1) - 1
    return renamed(keys, lambda key: _to_diffusers(key, per_level), "UNet", "ComfyUI")


def _to_comfy(key: str, per_level: int, keys: set[str]) -> str | None:
    module, _, kind = key.rpartition(".")
    if module in _OUTSIDE_BLOCKS:
        return f"{_OUTSIDE_BLOCKS[module]}.{kind}"
    if match := re.match(r"down_blocks\.(\d\d?)\.(resnets|attentions|downsamplers)\.(\d\d?)\.(.+)", key):
        level, part, index, rest = int(match[1]), match[2], int(match[3]), match[4]
        first = 1 + level * (per_level + 1)
        if part == "downsamplers":
            return f"input_blocks.{first + per_level}.0.op.{kind}" if rest.startswith("conv.") else None
        return _inside_block(f"input_blocks.{first + index}", part, rest)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d\d?)\.(.+)", key):
        if match[1] == "resnets":
            return _resnet_to_comfy(f"middle_block.{2 * int(match[2])}", match[3])
        return _transformer_to_comfy("middle_block.1", match[3])
    if match := re.match(r"up_blocks\.(\d\d?)\.(resnets|attentions|upsamplers)\.(\d\d?)\.(.+)", key):
        level, part, index, rest = int(match[1]), match[2], int(match[3]), match[4]
        first = level * (per_level + 1)
        if part == "upsamplers":
            has_attention = f"up_blocks.{level}.attentions.0.norm.weight" in keys
            return f"output_blocks.{first + per_level}.{2 if has_attention else 1}.{rest}"
        return _inside_block(f"output_blocks.{first + index}", part, rest)
    return None


def _inside_block(block: str, part: str, rest: str) -> str | None:
    return _resnet_to_comfy(f"{block}.0", rest) if part == "resnets" else _transformer_to_comfy(f"{block}.1", rest)


def _resnet_to_comfy(block: str, rest: str) -> str | None:
    if rest == "time_mixer.mix_factor":
        return f"{block}.{rest}"
    stage, _, layer = rest.partition(".")
    layer, _, kind = layer.rpartition(".")
    if layer not in _RESNET or stage not in ("spatial_res_block", "temporal_res_block"):
        return None
    return f"{block}.{'time_stack.' if stage == 'temporal_res_block' else ''}{_RESNET[layer]}.{kind}"


def _transformer_to_comfy(block: str, rest: str) -> str:
    rest = re.sub(r"^temporal_transformer_blocks\.", "time_stack.", rest)
    rest = re.sub(r"^time_pos_embed\.linear_([12])\.", lambda match: f"time_pos_embed.{2 * int(match[1]) - 2}.", rest)
    return f"{block}.{rest}"


def _to_diffusers(key: str, per_level: int) -> str | None:
    module, _, kind = key.rpartition(".")
    if module in _OUTSIDE_BACK:
        return f"{_OUTSIDE_BACK[module]}.{kind}"
    if match := re.match(r"input_blocks\.(\d\d?)\.(\d)\.(.+)", key):
        level, index = divmod(int(match[1]) - 1, per_level + 1)
        if match[3].startswith("op."):
            return f"down_blocks.{level}.downsamplers.0.conv.{kind}"
        return _inside_level(f"down_blocks.{level}", index, match[2], match[3])
    if match := re.match(r"middle_block\.(\d)\.(.+)", key):
        if match[1] == "1":
            return _transformer_to_diffusers("mid_block.attentions.0", match[2])
        return _resnet_to_diffusers(f"mid_block.resnets.{int(match[1]) // 2}", match[2])
    if match := re.match(r"output_blocks\.(\d\d?)\.(\d)\.(.+)", key):
        level, index = divmod(int(match[1]), per_level + 1)
        if match[3].startswith("conv."):
            return f"up_blocks.{level}.upsamplers.0.{match[3]}"
        return _inside_level(f"up_blocks.{level}", index, match[2], match[3])
    return None


def _inside_level(level: str, index: int, part: str, rest: str) -> str | None:
    if part == "0":
        return _resnet_to_diffusers(f"{level}.resnets.{index}", rest)
    return _transformer_to_diffusers(f"{level}.attentions.{index}", rest)


def _resnet_to_diffusers(block: str, rest: str) -> str | None:
    if rest == "time_mixer.mix_factor":
        return f"{block}.{rest}"
    stage = "temporal_res_block" if rest.startswith("time_stack.") else "spatial_res_block"
    layer, _, kind = rest.removeprefix("time_stack.").rpartition(".")
    return f"{block}.{stage}.{_RESNET_BACK[layer]}.{kind}" if layer in _RESNET_BACK else None


def _transformer_to_diffusers(block: str, rest: str) -> str:
    rest = re.sub(r"^time_stack\.", "temporal_transformer_blocks.", rest)
    rest = re.sub(r"^time_pos_embed\.([02])\.", lambda match: f"time_pos_embed.linear_{int(match[1]) // 2 + 1}.", rest)
    return f"{block}.{rest}"
