"""Names of the tensors of SVD's temporal-decoder VAE: diffusers ↔ ComfyUI, every key, both ways.

ComfyUI counts the decoder's levels from the output (`decoder.up.3` is the deepest), diffusers from the input
(`up_blocks.0`). ComfyUI stores the attention's projections as 1×1 convolutions. diffusers has a 1×1 `quant_conv`
behind the encoder that ComfyUI's SVD VAE lacks: it is folded into `encoder.conv_out`, which is exact.
"""

import re
from collections.abc import Iterable, Mapping

import torch

from ...common.errors import WeightsError
from . import renamed

_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_ATTENTION_BACK = {comfy: diffusers for diffusers, comfy in _ATTENTION.items()}
_TEMPORAL = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
_TEMPORAL_BACK = {comfy: diffusers for diffusers, comfy in _TEMPORAL.items()}
_OUTSIDE_BLOCKS = {
    "encoder.conv_in": "encoder.conv_in",
    "encoder.conv_norm_out": "encoder.norm_out",
    "encoder.conv_out": "encoder.conv_out",
    "decoder.conv_in": "decoder.conv_in",
    "decoder.conv_norm_out": "decoder.norm_out",
    "decoder.conv_out": "decoder.conv_out",
    "decoder.time_conv_out": "decoder.conv_out.time_mix_conv",
}
_OUTSIDE_BACK = {comfy: diffusers for diffusers, comfy in _OUTSIDE_BLOCKS.items()}
_CONVOLUTION_AS_MATRIX = re.compile(r"\.mid\.attn_1\.(q|k|v|proj_out)\.weight$")


def diffusers_to_comfy(keys: Iterable[str]) -> dict[str, str]:
    """{diffusers key: ComfyUI key} for all keys of an SVD VAE but `quant_conv`, which ComfyUI does not have.

    Raises WeightsError when a key belongs to no temporal-decoder VAE.
    """
    keys = [key for key in keys if not key.startswith("quant_conv.")]
    return renamed(
        keys, lambda key: _to_comfy(key, _levels(keys, r"decoder\.up_blocks\.(\d\d?)\.")), "VAE", "diffusers"
    )


def comfy_to_diffusers(keys: Iterable[str]) -> dict[str, str]:
    """{ComfyUI key: diffusers key} for all keys of an SVD VAE.

    Raises WeightsError when a key belongs to no temporal-decoder VAE.
    """
    keys = list(keys)
    levels = _levels(keys, r"decoder\.up\.(\d\d?)\.")
    return renamed(keys, lambda key: _to_diffusers(key, levels), "VAE", "ComfyUI")


def tensors_to_comfy(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A diffusers SVD VAE's tensors as ComfyUI's: renamed, reshaped, `quant_conv` folded into the encoder.

    Raises WeightsError when they are no such VAE's, or when one that is to be folded is missing.
    """
    result = {}
    for key, name in diffusers_to_comfy(tensors).items():
        tensor = tensors[key]
        result[name] = tensor[..., None, None] if _CONVOLUTION_AS_MATRIX.search(name) else tensor
    folded = ("quant_conv.weight", "quant_conv.bias", "encoder.conv_out.weight", "encoder.conv_out.bias")
    if any(key in tensors for key in folded[:2]):
        if missing := [key for key in folded if key not in tensors]:
            raise WeightsError(
                f"Expected every tensor of SVD's VAE, found none for {missing[0]}. The file is incomplete: get it "
                "again."
            )
        _fold_quant_conv(result, *(tensors[key] for key in folded))
    return result


def tensors_to_diffusers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A ComfyUI SVD VAE's tensors as diffusers': renamed, reshaped, with `quant_conv` the identity."""
    result = {}
    for key, name in comfy_to_diffusers(tensors).items():
        tensor = tensors[key]
        result[name] = tensor[..., 0, 0] if _CONVOLUTION_AS_MATRIX.search(key) else tensor
    bias = tensors["encoder.conv_out.bias"]
    result["quant_conv.weight"] = torch.eye(len(bias), dtype=bias.dtype)[..., None, None]
    result["quant_conv.bias"] = torch.zeros_like(bias)
    return result


def _fold_quant_conv(
    tensors: dict[str, torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor,
    convolution: torch.Tensor,
    offset: torch.Tensor,
) -> None:
    channels = bias.numel()
    if (weight.shape, bias.shape, offset.shape, convolution.shape[:1], convolution.ndim) != (
        (channels, channels, 1, 1),
        (channels,),
        (channels,),
        (channels,),
        4,
    ):
        raise WeightsError(
            "Expected a quant_conv of the VAE that fits its encoder.conv_out, found "
            f"{tuple(weight.shape)} and {tuple(convolution.shape)}. The file is damaged: get it again."
        )
    # Q(Wx + b) + c = (QW)x + (Qb + c). float32: the product of two rounded matrices must not be rounded again.
    matrix, convolution, offset = weight[:, :, 0, 0].float(), convolution.float(), offset.float()
    tensors["encoder.conv_out.weight"] = torch.einsum("oi,ichw->ochw", matrix, convolution)
    tensors["encoder.conv_out.bias"] = matrix @ offset + bias.float()


def _levels(keys: Iterable[str], pattern: str) -> int:
    return 1 + max((int(match[1]) for match in map(re.compile(pattern).match, keys) if match), default=0)


def _to_comfy(key: str, levels: int) -> str | None:
    module, _, kind = key.rpartition(".")
    if module in _OUTSIDE_BLOCKS:
        return f"{_OUTSIDE_BLOCKS[module]}.{kind}"
    if match := re.match(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d\d?)\.(.+)", key):
        half, part, index, rest = match[1], match[2], int(match[3]), match[4]
        if part == "resnets":
            return _resnet_to_comfy(f"{half}.mid.block_{index + 1}", rest)
        layer, _, kind = rest.rpartition(".")
        return f"{half}.mid.attn_1.{_ATTENTION[layer]}.{kind}" if layer in _ATTENTION else None
    if match := re.match(
        r"(encoder|decoder)\.(down|up)_blocks\.(\d\d?)\.(resnets|downsamplers|upsamplers)\."
        r"(\d\d?)\.(.+)",
        key,
    ):
        half, way, number, part, index, rest = match.groups()
        level = levels - 1 - int(number) if way == "up" else int(number)
        if part != "resnets":
            return f"{half}.{way}.{level}.{part.removesuffix('rs')}.{rest}"
        return _resnet_to_comfy(f"{half}.{way}.{level}.block.{index}", rest)
    return None


def _resnet_to_comfy(block: str, rest: str) -> str | None:
    if rest == "time_mixer.mix_factor":
        return f"{block}.mix_factor"
    if rest.startswith("temporal_res_block."):
        layer, _, kind = rest.removeprefix("temporal_res_block.").rpartition(".")
        return f"{block}.time_stack.{_TEMPORAL[layer]}.{kind}" if layer in _TEMPORAL else None
    rest = rest.removeprefix("spatial_res_block.").replace("conv_shortcut.", "nin_shortcut.")
    return f"{block}.{rest}" if re.match(r"(norm|conv)[12]\.|nin_shortcut\.", rest) else None


def _to_diffusers(key: str, levels: int) -> str | None:
    module, _, kind = key.rpartition(".")
    if module in _OUTSIDE_BACK:
        return f"{_OUTSIDE_BACK[module]}.{kind}"
    if match := re.match(r"(encoder|decoder)\.mid\.(block_[12]|attn_1)\.(.+)", key):
        half, part, rest = match.groups()
        if part != "attn_1":
            return _resnet_to_diffusers(f"{half}.mid_block.resnets.{int(part[-1]) - 1}", rest, half == "decoder")
        layer, _, kind = rest.rpartition(".")
        return f"{half}.mid_block.attentions.0.{_ATTENTION_BACK[layer]}.{kind}" if layer in _ATTENTION_BACK else None
    if match := re.match(r"(encoder|decoder)\.(down|up)\.(\d\d?)\.(?:block\.(\d\d?)|(downsample|upsample))\.(.+)", key):
        half, way, level, index, sampler, rest = match.groups()
        level = levels - 1 - int(level) if way == "up" else int(level)
        if sampler:
            return f"{half}.{way}_blocks.{level}.{sampler}rs.0.{rest}"
        return _resnet_to_diffusers(f"{half}.{way}_blocks.{level}.resnets.{index}", rest, half == "decoder")
    return None


def _resnet_to_diffusers(block: str, rest: str, temporal: bool) -> str | None:
    if rest == "mix_factor":
        return f"{block}.time_mixer.mix_factor"
    if rest.startswith("time_stack."):
        layer, _, kind = rest.removeprefix("time_stack.").rpartition(".")
        return f"{block}.temporal_res_block.{_TEMPORAL_BACK[layer]}.{kind}" if layer in _TEMPORAL_BACK else None
    stage = "spatial_res_block." if temporal else ""
    return f"{block}.{stage}{rest.replace('nin_shortcut.', 'conv_shortcut.')}"
