"""What a report says about a clip, in numbers: how it changes, how far it is from its keyframes, where it ghosts.

Ghosting is a frame that shows both keyframes at once, half transparent, instead of what lies between them. In a small
window let a and b be the keyframes on both sides, f the frame, d = b − a, and

    w = ⟨f − a, d⟩ / ⟨d, d⟩                               the best blend is a + w · d
    e = 1 − |f − a − w · d|² / min(|f − a|², |f − b|²)    the part of f that it explains beyond the nearer keyframe

A pure blend has e = 1 and w between 0 and 1. Where an object has left or not yet come, f is one of the keyframes: w is
1 or 0. A frame that has nothing to do with either has e = 1/4 by chance. So the window's suspicion is

    s = 4 w (1 − w) · (e − 1/4) / (3/4),  clamped to 0…1

and the frame's the mean over its windows, weighted by how much the keyframes differ there, |d|². A frame half one
keyframe, half the other has 1. A real change of light is a blend, too, and cannot be told from ghosting.
"""

import itertools

import torch
import torch.nn.functional as F

_LONGEST_SIDE = 256
_WINDOW = 5
_BY_CHANCE = 0.25
_AT_ONCE = 32
# A difference below one step of 8-bit colour is none.
_NOTHING = (1 / 255) ** 2


def reduced(frames: torch.Tensor) -> torch.Tensor:
    """`[n, 3, h, w]` in float32, no side above 256 pixels, from an IMAGE `[n, height, width, channels]`."""
    factor = min(1.0, _LONGEST_SIDE / max(frames.shape[1:3]))
    size = [max(1, round(side * factor)) for side in frames.shape[1:3]]
    parts = [F.interpolate(part[..., :3].movedim(-1, 1).float(), size, mode="area") for part in frames.split(_AT_ONCE)]
    pixels = torch.cat(parts)
    return pixels.repeat(1, 3, 1, 1) if pixels.shape[1] == 1 else pixels


def change(frames: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference, 0…1, of each frame from the one before, `[n − 1]`; `frames`: `[n, 3, h, w]`."""
    return (frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3))


def distance(frames: torch.Tensor, keyframe: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference, 0…1, of each frame from one picture `[3, h, w]`; `[n]`."""
    return (frames - keyframe).abs().mean(dim=(1, 2, 3))


def ghosting(frames: torch.Tensor, keyframes: list[int]) -> torch.Tensor:
    """Suspicion of ghosting, 0…1, of each frame, `[n]`; 0 at keyframes and outside of them.

    `frames`: `[n, 3, h, w]`; `keyframes`: rising positions.
    """
    result = torch.zeros(len(frames), device=frames.device)
    for first, last in itertools.pairwise(keyframes):
        for start in range(first + 1, last, _AT_ONCE):
            between = slice(start, min(start + _AT_ONCE, last))
            result[between] = _blend_suspicion(frames[between], frames[first], frames[last])
    return result


def _blend_suspicion(f: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    d = (b - a)[None]
    dd = _window_mean(d * d)
    w = _window_mean((f - a) * d) / dd.clamp(min=_NOTHING)
    to_a, to_b = _window_mean((f - a) ** 2), _window_mean((f - b) ** 2)
    rest = to_a - w**2 * dd
    explained = 1 - rest / torch.minimum(to_a, to_b).clamp(min=_NOTHING)
    suspicion = (4 * w * (1 - w)).clamp(0, 1) * ((explained - _BY_CHANCE) / (1 - _BY_CHANCE)).clamp(0, 1)
    weight = dd * (dd > _NOTHING)
    return (suspicion * weight).sum(dim=(1, 2, 3)) / weight.sum().clamp(min=_NOTHING)


def _window_mean(values: torch.Tensor) -> torch.Tensor:
    # All three colours of a window count as one.
    return F.avg_pool2d(values.mean(dim=1, keepdim=True), min(_WINDOW, *values.shape[-2:]), stride=2)
