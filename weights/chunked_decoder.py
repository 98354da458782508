"""SVD's temporal decoder in pieces: the same frames as in one go, up to rounding, in the memory of a few frames.

The decoder looks along time in two places only. Each of its residual blocks ends in a temporal part, whose convolutions
see one position of all frames but whose group norms are taken over the whole clip; and the last convolution sees three
neighbouring frames. Everything else works frame by frame. So here the clip goes through each block twice: its frames in
groups through the spatial part, then its rows in strips, all frames of a strip at once, through the temporal part, with
the statistics of the group norms gathered over all strips before they are used.

Layers: ComfyUI's `comfy.ldm.modules.temporal_ae.VideoDecoder`, after Blattmann et al., "Stable Video Diffusion",
arXiv 2311.15127, appendix D.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch.nn.functional import silu

Layer = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def decode_in_chunks(
    decoder: torch.nn.Module,
    latents: torch.Tensor,
    device: torch.device,
    frames_at_once: int,
    check: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Pixels `[frames, 3, 8·h, 8·w]` of the latents `[frames, 4, h, w]`, on the latents' device and in their dtype.

    Between the blocks the clip is kept where `latents` are; `device` holds, beside the weights, what the decoder needs
    for `frames_at_once` frames. `check` is called before every piece and may raise.
    """
    clip, spatial = latents, [decoder.conv_in]
    for block in _blocks(decoder, spatial):
        clip = _frame_by_frame(spatial, clip, device, frames_at_once, check)
        spatial.clear()
        _over_time(block, clip, device, frames_at_once, check)
    spatial += [decoder.norm_out, silu, lambda x: decoder.conv_out(x, skip_video=True)]
    clip = _frame_by_frame(spatial, clip, device, frames_at_once, check)
    for rows in _strips(clip, frames_at_once):
        check()
        strip = _as_volume(clip[:, :, rows]).to(device)
        clip[:, :, rows] = decoder.conv_out.time_mix_conv(strip)[0].transpose(0, 1).to(clip.device)
    return clip


def kept_bytes(decoder: torch.nn.Module, frames: int, height: int, width: int, dtype: torch.dtype) -> int:
    """What is kept where the latents are, at most, for a video of these sizes in pixels.

    That is the clip before and after the step to the last resolution, the one before at a quarter of the positions.
    """
    last, before = (decoder.up[index].block[0].out_channels for index in (0, 1))
    return frames * height * width * (last + before // 4) * dtype.itemsize


def _blocks(decoder: torch.nn.Module, spatial: list[Layer]) -> Iterator[torch.nn.Module]:
    """The residual blocks in their order; before each, `spatial` gets the frame-wise layers that lead to its end."""

    def block(module):
        spatial.append(lambda x: module(x, None, skip_video=True))
        return module

    yield block(decoder.mid.block_1)
    spatial.append(decoder.mid.attn_1)
    yield block(decoder.mid.block_2)
    for index, level in reversed(list(enumerate(decoder.up))):
        for position, module in enumerate(level.block):
            yield block(module)
            spatial.extend(list(level.attn)[position : position + 1])
        if index:
            spatial.append(level.upsample)


def _frame_by_frame(layers: list[Layer], clip: torch.Tensor, device, frames_at_once: int, check) -> torch.Tensor:
    """The clip after the layers; in place where its shape stays, so that it is held only once."""
    result = None
    for start in range(0, len(clip), frames_at_once):
        check()
        frames = clip[start : start + frames_at_once].to(device)
        for layer in layers:
            frames = layer(frames)
        if result is None:
            same = frames.shape[1:] == clip.shape[1:]
            result = clip if same else clip.new_empty(len(clip), *frames.shape[1:])
        result[start : start + frames_at_once] = frames.to(clip.device)
    return result


def _over_time(block: torch.nn.Module, clip: torch.Tensor, device, frames_at_once: int, check) -> None:
    """The temporal part of a residual block on `[frames, channels, h, w]`, in place."""
    norm_in, _, conv_in = block.time_stack.in_layers
    norm_out, _, _, conv_out = block.time_stack.out_layers
    strips = list(_strips(clip, frames_at_once))

    def read() -> Iterator[torch.Tensor]:
        for rows in strips:
            check()
            yield _as_volume(clip[:, :, rows]).to(device)

    statistics_in = _statistics(read(), norm_in)

    # Computed twice rather than kept: keeping it would take as much memory again as the clip.
    def after_first(strip):
        return conv_in(silu(_normalise(strip, norm_in, statistics_in)))

    statistics_out = _statistics((after_first(strip) for strip in read()), norm_out)
    weight = block.get_alpha(1).to(device)
    for rows, strip in zip(strips, read()):
        mixed = strip + conv_out(silu(_normalise(after_first(strip), norm_out, statistics_out)))
        mixed = weight * mixed + (1.0 - weight) * strip
        clip[:, :, rows] = mixed[0].transpose(0, 1).to(clip.device, clip.dtype)


def _strips(clip: torch.Tensor, frames_at_once: int) -> Iterator[slice]:
    """Rows of which all frames together are no larger than `frames_at_once` whole frames."""
    height = clip.shape[2]
    rows = max(1, height * frames_at_once // len(clip))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _as_volume(frames: torch.Tensor) -> torch.Tensor:
    """`[frames, channels, h, w]` as `[1, channels, frames, h, w]`, which the temporal convolutions take."""
    return frames.transpose(0, 1).unsqueeze(0)


def _statistics(strips: Iterable[torch.Tensor], norm: torch.nn.GroupNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each group over all strips, each `[groups, 1]`.

    By the means and variances of the strips (Chan et al., 1979): sums of squares would lose what the variance is.
    """
    counts, means, variances = [], [], []
    for strip in strips:
        groups = strip.reshape(norm.num_groups, -1).float()
        variance, mean = torch.var_mean(groups, dim=1, correction=0)
        counts.append(groups.shape[1])
        # On the CPU, since not every device has float64.
        means.append(mean.cpu().double())
        variances.append(variance.cpu().double())
    share = torch.tensor(counts, dtype=torch.float64)[:, None] / sum(counts)
    means = torch.stack(means)
    mean = (share * means).sum(0)
    variance = (share * (torch.stack(variances) + (means - mean) ** 2)).sum(0)
    return mean[:, None].float(), variance[:, None].float()


def _normalise(strip: torch.Tensor, norm: torch.nn.GroupNorm, statistics: tuple[torch.Tensor, torch.Tensor]):
    """Group norm of `[1, channels, frames, h, w]` by the whole clip's statistics, in float32 as torch's own."""
    mean, variance = (value.to(strip.device) for value in statistics)
    groups = strip.reshape(norm.num_groups, -1).float()
    result = ((groups - mean) * (variance + norm.eps).rsqrt()).reshape(strip.shape)
    scale, shift = (value.to(strip.device, torch.float32).reshape(1, -1, 1, 1, 1) for value in (norm.weight, norm.bias))
    return (result * scale + shift).to(strip.dtype)
