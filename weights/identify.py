"""What a file or folder is, told from the names, shapes and number formats of its tensors; no tensor is read.

The one exception is a backward-motion file, whose numbers are checked too.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from ..common.errors import WeightsError, plain_name
from . import backward_motion
from .files import SafetensorsFile, StoredTensor, read_table

Stored = TypeVar("Stored")
Tensors = Mapping[str, StoredTensor]

PARTS = ("unet", "vae", "image_encoder")
UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
IMAGE_ENCODER_PREFIX = "conditioner.embedders.0.open_clip.model.visual."
PREFIXES = {"unet": (UNET_PREFIX, "diffusion_model."), "vae": (VAE_PREFIX,), "image_encoder": (IMAGE_ENCODER_PREFIX,)}
# A tensor that each network has, in ComfyUI's (or OpenCLIP's) and in diffusers' names.
SIGNS = {
    "unet": ("input_blocks.0.0.weight", "conv_in.weight"),
    "vae": ("decoder.conv_in.weight",),
    "image_encoder": ("vision_model.pre_layrnorm.weight", "ln_pre.weight"),
}
# Signs of the files that users mistake for SVD; the first that fits counts.
_OTHERS = [
    (r"lora_(up|down|A|B)\b|lora_unet", "a LoRA"),
    (r"(^|\.)(controlnet|control_model|input_hint_block)", "a ControlNet"),
    (r"motion_modules\.", "an AnimateDiff motion module"),
    (r"double_blocks\.", "a Flux or Hunyuan model"),
    (r"joint_blocks\.", "a Stable Diffusion 3 model"),
    (r"blocks\.\d+\.cross_attn\.norm_k", "a Wan model"),
    (r"^optimizer\.|exp_avg", "a training checkpoint"),
    (r"input_blocks\.|down_blocks\.", "a model of Stable Diffusion 1, 2 or XL"),
    (r"text_model\.|token_embedding", "a text encoder"),
    (r"^(trained\.|latent)", "a file of this pack's training or of a resumed sequence"),
]
_PART_NAMES = {"unet": "UNet", "vae": "VAE", "image_encoder": "CLIP image encoder"}
_NAME_OF_A_PART = re.compile(r"(diffusion_pytorch_model|model)[.-]")


def parts_of(stored: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
    """{`unet`, `vae`, `image_encoder`: its tensors without prefix} of a model of any kind; only the parts it has."""
    parts = {}
    for part, prefixes in PREFIXES.items():
        for prefix in (*prefixes, ""):
            tensors = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
            if any(sign in tensors for sign in SIGNS[part]):
                parts[part] = tensors
                break
    return parts


def has_image_decoder(vae: Iterable[str]) -> bool:
    """Whether a VAE, without prefix, decodes every frame alone: SVD's `…_image_decoder` files, or another model's."""
    vae = list(vae)
    return any(key.startswith("decoder.mid") for key in vae) and not any(key.endswith("mix_factor") for key in vae)


def refuse_image_decoder(vae: Iterable[str], name: str) -> None:
    """Raises WeightsError, naming the file or folder, when its VAE decodes every frame alone."""
    if has_image_decoder(vae):
        raise WeightsError(
            f"Expected SVD's temporal decoder, found {name} with an image decoder, which decodes every "
            "frame alone (svd_image_decoder.safetensors and svd_xt_image_decoder.safetensors have it). "
            "Choose svd.safetensors or svd_xt.safetensors instead."
        )


def has_temporal_unet(keys: Iterable[str]) -> bool:
    """Whether there is a UNet that looks along time, as SVD's does."""
    return any(".time_stack." in key or ".temporal_transformer_blocks." in key for key in keys)


def likely_kind(stored: Iterable[str]) -> str:
    """What a file that is no SVD model seems to be."""
    stored = list(stored)
    for pattern, kind in _OTHERS:
        if any(re.search(pattern, key) for key in stored):
            return kind
    return "of a kind that is not known here"


def describe(path: Path) -> list[str]:
    """Lines that say what a safetensors file, or a folder of a model or of several, is; its name first.

    Raises WeightsError when it is missing, empty, a pickle or damaged.
    """
    # "." has a name only when it is resolved. A name longer than any file's is no folder, which pathlib raises for.
    path = Path(path) if Path(path).name else Path(path).resolve()
    if os.path.isdir(path):
        return _describe_folder(path)
    with SafetensorsFile(path) as file:
        stored, metadata = file.stored, file.metadata
    if stored and all(map(backward_motion.is_backward_motion_key, stored)):
        differences, _ = backward_motion.read_backward_motion(path)
        numbers = sum(difference.numel() for difference in differences.values())
        lines = [
            (
                f"a backward-motion file: {len(backward_motion.layers(differences))} temporal attentions, "
                f"{numbers:,} numbers, {_formats(stored)}"
            )
        ]
    else:
        lines = _describe_parts(parts_of(stored), stored)
    return [
        f"{plain_name(path.name)}: {lines[0]}",
        *lines[1:],
        *(f"  {plain_name(key)}: {plain_name(value)}" for key, value in sorted(metadata.items())),
    ]


def _describe_folder(folder: Path) -> list[str]:
    parts = {part: sorted((folder / part).glob("*.safetensors")) for part in PARTS}
    files = sorted(folder.glob("*.safetensors"))
    # Without folders of parts in it, it may be one of them itself.
    own = [] if any(parts.values()) else [path for path in files if _NAME_OF_A_PART.match(path.name)]
    stored = {}
    for prefix, paths in [("", own), *((PREFIXES[part][0], parts[part]) for part in PARTS)]:
        for path in paths:
            with SafetensorsFile(path) as file:
                stored.update({prefix + key: value for key, value in file.stored.items()})
    others = [line for path in files if path not in own for line in describe(path)]
    if not stored and not others:
        raise WeightsError(
            f"Expected safetensors files in {plain_name(folder.name)} or in its {', '.join(PARTS)}, "
            "found none. Download the model's whole folder, its safetensors files included."
        )
    lines = [*_describe_parts(parts_of(stored), stored), *_num_frames(folder)] if stored else ["these files"]
    return [f"{plain_name(folder.name)}/: {lines[0]}", *lines[1:], *others]


def _num_frames(folder: Path) -> list[str]:
    configs = [place / "config.json" for place in (folder, *(folder / part for part in PARTS))]
    claims = [read_table(config).get("num_frames") for config in configs if config.exists()]
    return [f"  num_frames of its config: {frames}" for frames in claims if type(frames) is int]


def _describe_parts(parts: dict[str, dict[str, StoredTensor]], stored: Tensors) -> list[str]:
    kinds = {part: _SVD_KINDS[part](tensors) for part, tensors in parts.items()}
    if not any(svd for svd, _ in kinds.values()):
        seems = " and ".join(kind for _, kind in kinds.values()) or likely_kind(stored)
        if "unet" in parts:
            seems = likely_kind(stored)
        return [
            f"no part of Stable Video Diffusion; it seems to be {seems} ({len(stored):,} tensors, {_formats(stored)})"
        ]
    names = " and ".join(_PART_NAMES[part] for part in parts)
    if set(parts) == set(PARTS):
        whole = all(svd for svd, _ in kinds.values())
        first = f"{'a whole' if whole else 'not a whole'} Stable Video Diffusion model"
    elif set(parts) == {"image_encoder"}:
        first = "a CLIP image encoder, which may be that of Stable Video Diffusion"
    else:
        first = f"the {names} of Stable Video Diffusion, alone"
    lines = [
        first,
        *(
            f"  {_PART_NAMES[part]}: {kinds[part][1]}, {_numbers(tensors):,} numbers, {_formats(tensors)}"
            for part, tensors in parts.items()
        ),
    ]
    if "unet" in parts and kinds["unet"][0]:
        lines.append("  frames: not in the weights; SVD was trained on 14, SVD-XT on 25")
    if "vae" in parts and has_image_decoder(parts["vae"]):
        lines.append("  Load SVD Model needs the temporal decoder: take svd.safetensors or svd_xt.safetensors instead")
    return lines


def _unet(tensors: Tensors) -> tuple[bool, str]:
    shape = next(tensors[sign].shape for sign in SIGNS["unet"] if sign in tensors)
    svd = has_temporal_unet(tensors) and shape[1:2] == (8,)
    whose = "SVD's" if svd else "of another model"
    return svd, f"{whose}, {shape[0] if shape else 0} channels wide"


def _vae(tensors: Tensors) -> tuple[bool, str]:
    image = has_image_decoder(tensors)
    return not image, "an image VAE, which decodes every frame alone" if image else "with SVD's temporal decoder"


def _image_encoder(tensors: Tensors) -> tuple[bool, str]:
    shape = next(tensors[sign].shape for sign in SIGNS["image_encoder"] if sign in tensors)
    return True, f"a CLIP vision model, {shape[0] if shape else 0} channels wide"


_SVD_KINDS = {"unet": _unet, "vae": _vae, "image_encoder": _image_encoder}


def _numbers(tensors: Tensors) -> int:
    return sum(math.prod(stored.shape) for stored in tensors.values())


def _formats(tensors: Tensors) -> str:
    """The number formats, the most frequent first."""
    counted = Counter()
    for stored in tensors.values():
        counted[plain_name(stored.format)] += math.prod(stored.shape)
    return " and ".join(name for name, _ in counted.most_common(4)) or "no numbers"
