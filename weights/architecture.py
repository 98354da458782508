"""The sizes of SVD's three networks, read from their tensors, and a check that no tensor is missing.

The host takes the tensors that it finds for the whole network: a missing one stays whatever was in memory, a missing
block makes a network of another shape. So the sizes are read here from all blocks together, by majority. Before
anything is built, every tensor is compared with those of the host's own class of these sizes.
"""

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import comfy.ops
import torch
from comfy.clip_model import CLIPVisionModelProjection
from comfy.ldm.models.autoencoder import AutoencodingEngine
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from ..common.errors import WeightsError
from .svd import SVDConfig

Tensors = Mapping[str, torch.Tensor]

_CHANNELS = 8
_FPS_BUCKET_AUGMENTATION = 3 * 256
_BLOCK = re.compile(r"((?:input|output)_blocks|middle_block)(?:\.(\d{1,3}))?\.(\d)\.(.+)")
_RESIDUAL_WIDTH = re.compile(r"(?:in_layers\.2|out_layers\.3)\.(?:weight|bias)")
_TRANSFORMER = re.compile(r"transformer_blocks\.(\d{1,2})\.|norm\.|proj_in\.|proj_out\.|time_")
_VAE_BLOCK = re.compile(r"(encoder\.down|decoder\.up)\.(\d{1,2})\.block\.(\d{1,2})\.(.+)")
_ENCODER_LAYER = re.compile(r"vision_model\.encoder\.layers\.(\d{1,3})\.")


class _ShapesOnly(comfy.ops.disable_weight_init):
    """Layers whose weights exist on the meta device; the host's own may not exist before they are loaded."""

    Linear: type = torch.nn.Linear
    Embedding: type = torch.nn.Embedding


def unet_numbers(tensors: Tensors, config: SVDConfig) -> dict:
    """What the host's UNetModel is made of for this SVD UNet, without its attention heads.

    Raises WeightsError when the tensors are no SVD UNet, or when one is missing or misshapen.
    """
    if not any(key.startswith("input_blocks.") for key in tensors):
        raise WeightsError("Expected the UNet of Stable Video Diffusion, found a model of another architecture.")
    channels, conditioning = (
        tensors[key].shape[1:2] if key in tensors else (expected,)
        for key, expected in (
            ("input_blocks.0.0.weight", _CHANNELS),
            ("label_emb.0.0.weight", _FPS_BUCKET_AUGMENTATION),
        )
    )
    if (
        not any(".time_stack." in key for key in tensors)
        or channels != (_CHANNELS,)
        or conditioning != (_FPS_BUCKET_AUGMENTATION,)
    ):
        raise WeightsError(
            "Expected the UNet of Stable Video Diffusion (temporal attention, 8 input channels, fps, "
            "motion bucket and noise augmentation as conditioning), found a model of another kind. "
            "Choose svd.safetensors, svd_xt.safetensors or a model of their architecture."
        )
    numbers = _read_unet(tensors)
    _check(
        tensors,
        "UNet",
        lambda: UNetModel(
            image_size=32,
            in_channels=_CHANNELS,
            out_channels=4,
            dtype=torch.float32,
            operations=_ShapesOnly,
            use_spatial_transformer=True,
            use_linear_in_transformer=True,
            legacy=False,
            num_classes="sequential",
            adm_in_channels=_FPS_BUCKET_AUGMENTATION,
            extra_ff_mix_layer=True,
            use_spatial_context=True,
            merge_strategy="learned_with_images",
            video_kernel_size=[3, 1, 1],
            use_temporal_resblock=True,
            use_temporal_attention=True,
            num_heads=config.num_heads,
            num_head_channels=config.num_head_channels,
            **numbers,
        ),
    )
    return numbers


def vae_numbers(tensors: Tensors) -> dict:
    """What `vae_network` makes this temporal-decoder VAE of.

    Raises WeightsError when the tensors are none, or when one is missing or misshapen.
    """
    if not any(key.startswith("decoder.") and ".time_stack." in key for key in tensors):
        raise WeightsError("Expected the VAE of Stable Video Diffusion with its temporal decoder, found another VAE.")
    widths, residual = defaultdict(list), 0
    for key, match in ((key, _VAE_BLOCK.fullmatch(key)) for key in tensors):
        if match:
            side, level, block, rest = match.groups()
            # The decoder has one residual block more on each level.
            residual = max(residual, int(block) + (side == "encoder.down"))
            widths[int(level)] += _sizes(tensors, [key] if rest.startswith(("conv1.", "conv2.")) else [], 0)
    width = _most_common(
        "VAE",
        "encoder.conv_in.weight",
        _sizes(tensors, ("encoder.conv_in.weight", "encoder.conv_in.bias", "decoder.norm_out.weight"), 0),
    )
    latent = _most_common(
        "VAE",
        "decoder.conv_in.weight",
        [
            *_sizes(tensors, ("decoder.conv_in.weight",), 1),
            *(size // 2 for size in _sizes(tensors, ("encoder.conv_out.weight", "encoder.conv_out.bias"), 0)),
        ],
    )
    level_widths = [
        _most_common("VAE", f"encoder.down.{level}.block.0.conv1.weight", widths[level])
        for level in range(1 + max(widths, default=0))
    ]
    numbers = {
        "double_z": True,
        "z_channels": latent,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": width,
        "ch_mult": _multiples("VAE", level_widths, width),
        "num_res_blocks": residual,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    _check(tensors, "VAE", lambda: vae_network(numbers))
    return numbers


def vae_network(numbers: dict) -> AutoencodingEngine:
    """The host's VAE with a temporal decoder, its weights not yet loaded."""
    return AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Encoder", "params": numbers},
        decoder_config={
            "target": "comfy.ldm.modules.temporal_ae.VideoDecoder",
            "params": {**numbers, "video_kernel_size": [3, 1, 1], "alpha": 0.0},
        },
    ).eval()


def image_encoder_numbers(tensors: Tensors, config: SVDConfig) -> dict:
    """The host's settings of the CLIP image encoder, as its JSON files have them.

    Raises WeightsError when the tensors are none, or when one is missing or misshapen.
    """
    layers = [int(match[1]) for match in map(_ENCODER_LAYER.match, tensors) if match]
    if not layers:
        raise WeightsError("Expected a CLIP image encoder, found none.")

    def size(keys: str, axis: int, network: str = "CLIP image encoder") -> int:
        names = [key for key in tensors if re.fullmatch(keys, key)]
        return _most_common(network, keys.replace("\\", ""), _sizes(tensors, names, axis))

    patch = size(r"vision_model\.embeddings\.patch_embedding\.weight", -1)
    positions = size(r"vision_model\.embeddings\.position_embedding\.weight", 0)
    numbers = {
        "hidden_size": size(r"vision_model\.(?:pre_layrnorm|post_layernorm)\.(?:weight|bias)", 0),
        "patch_size": patch,
        "num_channels": 3,
        "image_size": round((positions - 1) ** 0.5) * patch,
        "intermediate_size": size(r"vision_model\.encoder\.layers\.\d+\.mlp\.fc1\.(?:weight|bias)", 0),
        "projection_dim": size(r"visual_projection\.weight", 0),
        "num_hidden_layers": 1 + max(layers),
        "num_attention_heads": config.image_encoder_heads,
        "hidden_act": config.image_encoder_activation,
        "layer_norm_eps": 1e-5,
        "model_type": "clip_vision_model",
    }
    _check(
        tensors,
        "CLIP image encoder",
        lambda: CLIPVisionModelProjection(numbers, torch.float32, torch.device("meta"), _ShapesOnly),
    )
    return numbers


def _check(tensors: Tensors, network: str, build: Callable[[], torch.nn.Module]) -> None:
    """Raises WeightsError, naming the tensor, when one of the network that `build()` makes is missing or misshapen.

    Tensors that the network does not have are left to the host.
    """
    try:
        with torch.device("meta"):
            expected = {key: tensor.shape for key, tensor in build().state_dict().items() if "position_ids" not in key}
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"Expected SVD's {network}, found widths of which ComfyUI cannot build one: {error}. The "
            "file is damaged or of another architecture."
        ) from error
    if missing := [key for key in expected if key not in tensors]:
        raise _lacking(network, missing)
    for key, shape in expected.items():
        # Quantised weights are packed: the host itself says what does not fit there.
        packed = f"{key.rpartition('.')[0]}.comfy_quant" in tensors
        if not packed and tensors[key].shape != shape:
            raise WeightsError(
                f"Expected {tuple(shape)} for {key} of SVD's {network}, found "
                f"{tuple(tensors[key].shape)}. The file is damaged or of another architecture."
            )


def _read_unet(tensors: Tensors) -> dict:
    blocks = _blocks(tensors)
    levels = _levels(blocks)
    residual = [sum(name.startswith("input") for name in level) for level in levels]
    depths = [max(_transformers(blocks[name]) for name in level) for level in levels]
    width = _most_common(
        "UNet",
        "input_blocks.0.0.weight",
        [
            *_sizes(tensors, ("input_blocks.0.0.weight", "input_blocks.0.0.bias", "out.0.weight", "out.0.bias"), 0),
            *_sizes(tensors, ("time_embed.0.weight",), 1),
        ],
    )
    widths = [
        _most_common(
            "UNet",
            f"{level[0]}.0.out_layers.3.weight",
            [
                size
                for name in level
                for size in _sizes(
                    tensors,
                    (
                        f"{name}.0.{rest}"
                        for part, rest in blocks[name]
                        if part == "0" and _RESIDUAL_WIDTH.fullmatch(rest)
                    ),
                    0,
                )
            ],
        )
        for level in levels
    ]
    return {
        "model_channels": width,
        "channel_mult": _multiples("UNet", widths, width),
        "num_res_blocks": residual,
        "context_dim": _most_common(
            "UNet",
            "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
            _sizes(tensors, (key for key in tensors if key.endswith(".attn2.to_k.weight")), 1),
        ),
        "transformer_depth": [depth for depth, count in zip(depths, residual) for _ in range(count)],
        "transformer_depth_output": [depth for depth, count in zip(depths, residual) for _ in range(count + 1)],
        "transformer_depth_middle": max(1, _transformers(blocks["middle_block"])),
        "disable_temporal_crossattention": not any(".time_stack." in key and ".attn2." in key for key in tensors),
    }


def _blocks(tensors: Tensors) -> dict[str, list[tuple[str, str]]]:
    """{block: [(its part, the rest of the key)]}, e.g. `input_blocks.1`, `0` and `in_layers.0.weight`."""
    blocks, last = defaultdict(list), 0
    for match in filter(None, map(_BLOCK.fullmatch, tensors)):
        side, index, part, rest = match.groups()
        blocks[side if index is None else f"{side}.{index}"].append((part, rest))
        last = max(last, int(index or 0))
    names = [f"{side}_blocks.{index}" for side in ("input", "output") for index in range(last + 1)]
    if absent := [name for name in [*names, "middle_block"] if name not in blocks]:
        raise _lacking("UNet", absent)
    return blocks


def _levels(blocks: Mapping[str, list[tuple[str, str]]]) -> list[list[str]]:
    """The residual blocks of each resolution, the highest first, those on the way down before those on the way up."""
    levels = [[]]
    count = sum(name.startswith("input") for name in blocks)
    for index in range(1, count):
        if any(rest.startswith("op.") for _, rest in blocks[f"input_blocks.{index}"]):
            levels.append([])
        else:
            levels[-1].append(f"input_blocks.{index}")
    if [] in levels:
        raise _lacking("UNet", [f"input_blocks.{count}"])
    output = iter(range(count))
    for level in reversed(levels):
        level += [f"output_blocks.{next(output)}" for _ in range(len(level) + 1)]
    return levels


def _transformers(block: Iterable[tuple[str, str]]) -> int:
    """How many transformers a block has, one after the other."""
    found = [_TRANSFORMER.match(rest) for part, rest in block if part == "1"]
    return max((1 + int(match[1] or 0) for match in found if match), default=0)


def _sizes(tensors: Tensors, keys: Iterable[str], axis: int) -> list[int]:
    return [tensors[key].shape[axis] for key in keys if key in tensors and tensors[key].ndim > max(axis, 0)]


def _most_common(network: str, key: str, sizes: list[int]) -> int:
    # By the majority, so that one tensor of a wrong shape is the one that is named.
    if not sizes or not statistics.mode(sizes):
        raise _lacking(network, [key])
    return statistics.mode(sizes)


def _multiples(network: str, widths: list[int], width: int) -> list[int]:
    if any(other % width for other in widths):
        raise WeightsError(
            f"Expected widths of the {network} that are multiples of its first, {width}, found "
            f"{widths}: ComfyUI cannot build such a {network}."
        )
    return [other // width for other in widths]


def _lacking(network: str, missing: list[str]) -> WeightsError:
    return WeightsError(
        f"Expected every tensor of SVD's {network}, found none for {len(missing)}, the first: "
        f"{missing[0]}. The file is incomplete or of another architecture: get it again."
    )
