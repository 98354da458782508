"""Names of the tensors of SVD's CLIP image encoder: diffusers (transformers) ↔ OpenCLIP, as checkpoints hold it.

OpenCLIP keeps query, key and value in one matrix and the projection transposed.
"""

import re
from collections.abc import Mapping

import torch

from ...common.errors import WeightsError, plain_name

_OUTSIDE_LAYERS = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.pre_layrnorm.weight": "ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "ln_pre.bias",
    "vision_model.post_layernorm.weight": "ln_post.weight",
    "vision_model.post_layernorm.bias": "ln_post.bias",
}
_OUTSIDE_BACK = {openclip: name for name, openclip in _OUTSIDE_LAYERS.items()}
_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_LAYER_BACK = {openclip: name for name, openclip in _LAYER.items()}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
# A buffer that older transformers wrote: the numbers 0, 1, 2 …
_IGNORED = ("vision_model.embeddings.position_ids",)


def tensors_to_openclip(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers' tensors of a CLIP image encoder as OpenCLIP's.

    Raises WeightsError when a key belongs to no CLIP image encoder.
    """
    renamed = {}
    for key, tensor in tensors.items():
        layer = re.match(r"vision_model\.encoder\.layers\.(\d\d?)\.(.+)\.(weight|bias)$", key)
        if key in _OUTSIDE_LAYERS:
            renamed[_OUTSIDE_LAYERS[key]] = tensor
        elif key == "visual_projection.weight" and tensor.ndim == 2:
            renamed["proj"] = tensor.T.contiguous()
        elif layer and layer[2] in _LAYER:
            renamed[f"transformer.resblocks.{layer[1]}.{_LAYER[layer[2]]}.{layer[3]}"] = tensor
        elif layer and layer[2] == "self_attn.q_proj":
            names = [key.replace("q_proj", projection) for projection in _PROJECTIONS]
            parts = [tensors[name] for name in names if name in tensors]
            if len(parts) < len(names) or any(part.shape[1:] != tensor.shape[1:] for part in parts):
                raise _damaged(key)
            renamed[f"transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"] = torch.cat(parts)
        elif not (key in _IGNORED or (layer and layer[2] in ("self_attn.k_proj", "self_attn.v_proj"))):
            raise _unknown(key)
    return renamed


def tensors_to_transformers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenCLIP's tensors of a CLIP image encoder as transformers'.

    Raises WeightsError when a key belongs to no CLIP image encoder.
    """
    renamed = {}
    for key, tensor in tensors.items():
        layer = re.match(r"transformer\.resblocks\.(\d\d?)\.(.+?)[._](weight|bias)$", key)
        if key in _OUTSIDE_BACK:
            renamed[_OUTSIDE_BACK[key]] = tensor
        elif key == "proj" and tensor.ndim == 2:
            renamed["visual_projection.weight"] = tensor.T.contiguous()
        elif layer and layer[2] in _LAYER_BACK:
            renamed[f"vision_model.encoder.layers.{layer[1]}.{_LAYER_BACK[layer[2]]}.{layer[3]}"] = tensor
        elif layer and layer[2] == "attn.in_proj":
            if not tensor.ndim or tensor.shape[0] % 3:
                raise _damaged(key)
            for projection, part in zip(_PROJECTIONS, tensor.chunk(3)):
                renamed[f"vision_model.encoder.layers.{layer[1]}.self_attn.{projection}.{layer[3]}"] = part.clone()
        else:
            raise _unknown(key)
    return renamed


def _damaged(key: str) -> WeightsError:
    return WeightsError(
        f"Expected query, key and value of one width in the CLIP image encoder, found others beside "
        f"{plain_name(key)}. The file is damaged: get it again."
    )


def _unknown(key: str) -> WeightsError:
    return WeightsError(
        f"Expected the tensors of a CLIP image encoder, found one that it does not have: {plain_name(key)}"
    )
