"""CONDITIONING that carries the keyframes, and the checks on it.

The first keyframe takes the place of SVD's picture. Without one there are zeros, which mean no picture to SVD. The last
keyframe rides along for the backward direction, and the positive half also carries the keyframes inside the clip.
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..common.errors import quoted
from .method.alternating import KeyframeLatents
from .settings import WITHOUT_FIRST_KEYFRAME

_LAST_KEYFRAME = "inbetween_last_keyframe"
_MIDDLE_KEYFRAMES = "inbetween_middle_keyframes"
_CLEAN_KEYFRAMES = "inbetween_clean_keyframes"
_UNSUPPORTED = {"area": "areas", "control": "ControlNet", "gligen": "GLIGEN"}
_NUMBERS = ("fps", "motion_bucket_id", "augmentation_level", "strength")

Conditioning = list[list]


@dataclass(frozen=True)
class LastKeyframe:
    """What the backward direction is conditioned on.

    `embedding`: CLIP image embedding `[1, 1, channels]`; `latent`: `[1, 4, h, w]`, unscaled; `frames`: clip length;
    `alone`: whether there is no first keyframe.
    """

    embedding: torch.Tensor
    latent: torch.Tensor
    frames: int
    alone: bool = False


@dataclass(frozen=True)
class MiddleKeyframeLatents:
    """Keyframes inside the clip, at which the estimates are corrected.

    `latents`: `[keyframes, 4, h, w]`, of pictures without augmentation noise, unscaled where nothing else is said;
    `positions`: their frames, counted from 0, each once, rising; `strengths`: above 0 and at most 1.
    """

    latents: torch.Tensor
    positions: tuple[int, ...]
    strengths: tuple[float, ...]


def keyframe_conditioning(
    embeddings: tuple[torch.Tensor | None, torch.Tensor],
    latents: tuple[torch.Tensor | None, torch.Tensor],
    frames: int,
    fps: int,
    motion_bucket: int,
    augmentation: float,
    middle: MiddleKeyframeLatents | None = None,
    clean: KeyframeLatents | None = None,
) -> tuple[Conditioning, Conditioning]:
    """(positive, negative) for the first and the last keyframe; unconditional is zero embedding and zero latent.

    `embeddings`: two of `[1, 1, channels]`; `latents`: two of `[1, 4, h, w]`, the VAE's, not multiplied by its scale;
    the first of each is None for a video that leads up to the last keyframe alone. `clean`: the same latents of the
    pictures without augmentation noise, by default those with it.
    """
    alone = latents[0] is None
    first_embedding, first_latent = (
        torch.zeros_like(last) if first is None else first for first, last in (embeddings, latents)
    )
    options = {"motion_bucket_id": motion_bucket, "fps": fps, "augmentation_level": augmentation}

    def entry(scale: float) -> Conditioning:
        last = LastKeyframe(scale * embeddings[1], scale * latents[1], frames, alone)
        return [
            [scale * first_embedding, {**options, "concat_latent_image": scale * first_latent, _LAST_KEYFRAME: last}]
        ]

    positive, negative = entry(1.0), entry(0.0)
    if middle is not None:
        positive[0][1][_MIDDLE_KEYFRAMES] = middle
    if clean is not None:
        positive[0][1][_CLEAN_KEYFRAMES] = clean
    return positive, negative


def backward_conditioning(conditioning: Conditioning, name: str) -> Conditioning:
    """The same conditioning for the backward direction: the last keyframe in the first one's place.

    Raises ValueError, naming the input, for conditioning that does not carry both keyframes.
    """
    backward = []
    for _, options in conditioning:
        last = options.get(_LAST_KEYFRAME)
        if last is None:
            raise ValueError(
                f"{name}: expected conditioning that carries both keyframes, found conditioning without a "
                "last keyframe. Connect the output of Encode Keyframes."
            )
        backward.append([last.embedding, {**options, "concat_latent_image": last.latent}])
    if not backward:
        raise ValueError(f"{name}: expected conditioning, found an empty list. Connect Encode Keyframes.")
    return backward


def has_first_keyframe(positive: Conditioning, negative: Conditioning) -> bool:
    """Whether conditioning that carries keyframes carries both of them, not the last one alone.

    Raises ValueError when its parts differ in that.
    """
    alone = {options[_LAST_KEYFRAME].alone for _, options in (*positive, *negative)}
    if len(alone) == 2:
        raise ValueError(
            "negative: expected positive and negative of the same keyframes, found conditioning with a first keyframe "
            "and conditioning without one. Connect both outputs of one Encode Keyframes."
        )
    return alone == {False}


def keyframe_latents(conditioning: Conditioning, scaled: Callable[[torch.Tensor], torch.Tensor]) -> KeyframeLatents:
    """The latents of both keyframes in the first part of a positive conditioning, as the sampled latents hold them.

    `scaled`: the host's multiplication by the VAE's scale.
    """
    options = conditioning[0][1]
    return KeyframeLatents(scaled(options["concat_latent_image"]), scaled(options[_LAST_KEYFRAME].latent))


def middle_keyframe_latents(
    conditioning: Conditioning, scaled: Callable[[torch.Tensor], torch.Tensor]
) -> MiddleKeyframeLatents | None:
    """As `keyframe_latents`, of the keyframes inside the clip, in whichever part has them; None where there are none.

    Raises ValueError when several parts have different ones: a frame is led to one picture.
    """
    found = [options[_MIDDLE_KEYFRAMES] for _, options in conditioning if options.get(_MIDDLE_KEYFRAMES) is not None]
    for other in found[1:]:
        alike = (other.positions, other.strengths) == (found[0].positions, found[0].strengths)
        if not (alike and _same((other.latents,), (found[0].latents,))):
            raise ValueError(
                "positive: expected the same middle keyframes in all parts of a combined conditioning, found "
                "different ones. Connect one chain of Middle Keyframe nodes, to one Encode Keyframes or to all."
            )
    return replace(found[0], latents=scaled(found[0].latents)) if found else None


def check_both_keyframes(positive: Conditioning, has_first: bool) -> None:
    """Raises ValueError when there is not one pair of keyframes, for a strategy that leads the latents to them.

    Without a first one it has nothing to lead to; of different ones in a combined conditioning it could take one pair.
    """
    if not has_first:
        raise ValueError(
            "positive: expected both keyframes, which this strategy needs, found the last one alone. Connect "
            "first_keyframe of Encode Keyframes, or choose another preset, or a strategy that does without: "
            + ", ".join(f"`{name}`" for name in WITHOUT_FIRST_KEYFRAME)
            + "."
        )
    pairs = [(options["concat_latent_image"], options[_LAST_KEYFRAME].latent) for _, options in positive]
    if not all(_same(pairs[0], pair) for pair in pairs):
        raise ValueError(
            "positive: expected one pair of keyframes, to which this strategy leads the video, found conditioning "
            "combined of several. Connect the output of one Encode Keyframes, or choose another strategy."
        )


def _same(some: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> bool:
    return all(a is b or torch.equal(a, b.to(a.device)) for a, b in zip(some, others, strict=True))


def clean_keyframe_latents(
    conditioning: Conditioning, scaled: Callable[[torch.Tensor], torch.Tensor]
) -> KeyframeLatents:
    """As `keyframe_latents`, of the pictures without augmentation noise where the conditioning carries them."""
    clean = conditioning[0][1].get(_CLEAN_KEYFRAMES)
    if clean is None:
        return keyframe_latents(conditioning, scaled)
    return KeyframeLatents(scaled(clean.first), scaled(clean.last))


def check_conditioning(conditioning: Conditioning, name: str) -> None:
    """Raises ValueError for conditioning whose meaning in the backward direction is not defined, or that another node
    has broken.
    """
    for embedding, options in conditioning:
        for key, feature in _UNSUPPORTED.items():
            if key in options or (key == "area" and options.get("set_area_to_bounds")):
                raise ValueError(
                    f"{name}: {feature} cannot be used with dual-direction sampling. Remove the node that "
                    "adds it, or use a plain KSampler."
                )
        if _LAST_KEYFRAME in options:
            _check_numbers(embedding, options, name)


def _check_numbers(embedding: torch.Tensor, options: dict, name: str) -> None:
    last, latent = options[_LAST_KEYFRAME], options.get("concat_latent_image")
    middle = options.get(_MIDDLE_KEYFRAMES)
    clean = options.get(_CLEAN_KEYFRAMES)
    tensors = [
        (embedding, 3),
        (latent, 4),
        *([(last.embedding, 3), (last.latent, 4)] if isinstance(last, LastKeyframe) else [(None, 3)]),
        *([] if middle is None else [(middle.latents if isinstance(middle, MiddleKeyframeLatents) else None, 4)]),
        *([(clean.first, 4), (clean.last, 4)] if isinstance(clean, KeyframeLatents) else []),
    ]
    for tensor, dimensions in tensors:
        if (
            not isinstance(tensor, torch.Tensor)
            or tensor.ndim != dimensions
            or 0 in tensor.shape
            or not torch.isfinite(tensor).all()
        ):
            raise ValueError(
                f"{name}: expected the embeddings and latents of keyframes, found others, or NaN or "
                "infinity in them. Connect Encode Keyframes."
            )
    for key in _NUMBERS:
        number = options.get(key, 0)
        if not isinstance(number, numbers.Real) or not math.isfinite(number):
            raise ValueError(
                f"{name}: expected a finite number as {key}, found {quoted(number)}. Check the nodes "
                "between Encode Keyframes and this one."
            )


def check_latent(conditioning: Conditioning, name: str, samples: torch.Tensor) -> None:
    """Raises ValueError when the latents have another shape than the keyframes were encoded for."""
    for _, options in conditioning:
        check_shape(samples, options[_LAST_KEYFRAME].frames, options["concat_latent_image"], name)


def check_embedding(conditioning: Conditioning, name: str, width: int) -> None:
    """Raises ValueError when the image embeddings are not as wide as the model takes them."""
    for embedding, options in conditioning:
        for found in (embedding, options[_LAST_KEYFRAME].embedding):
            if found.shape[-1] != width:
                raise ValueError(
                    f"{name}: expected CLIP image embeddings of {width} numbers, as the model takes them, "
                    f"found {found.shape[-1]}. Connect clip_vision and model from the same Load SVD "
                    "Model."
                )


def embedding_width(model) -> int:
    """How wide the image embeddings are that the host's MODEL takes."""
    return model.model.model_config.unet_config["context_dim"]


def check_shape(samples: torch.Tensor, frames: int, keyframe: torch.Tensor, name: str) -> None:
    """Raises ValueError when keyframes were encoded for other latents; `keyframe`: the latent `[1, 4, h, w]` of one."""
    expected, found = (frames, *keyframe.shape[1:]), tuple(samples.shape)
    if frames != len(samples):
        raise ValueError(
            f"latent_image: expected {frames} frames, as {name} was encoded for, found {len(samples)}. "
            "Connect the latent of the same Encode Keyframes."
        )
    if found != expected:
        raise ValueError(
            f"latent_image: expected latents of shape {expected}, as {name} was encoded for, found "
            f"{found}. Connect the latent of the same Encode Keyframes."
        )
