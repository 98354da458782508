"""SVD's VAE as the host's VAE object, which decodes a clip as a whole also where memory is short.

In pieces the frames are the same as in one go, up to rounding, in the memory of a few frames. The decoder looks along
time in two places only: each of its residual blocks ends in a temporal part, whose convolutions see one position of
all frames but whose group norms are taken over the whole clip; and the last convolution sees three neighbouring
frames. Everything else works frame by frame. So the clip goes through each block twice: its frames in groups through
the spatial part, then its rows in strips, all frames of a strip at once, through the temporal part, with the statistics
of the group norms gathered over all strips before they are used.

Layers: ComfyUI's `comfy.ldm.modules.temporal_ae.VideoDecoder`, after Blattmann et al., "Stable Video Diffusion",
arXiv 2311.15127, appendix D.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from torch.nn.functional import silu

from ..common.latents import LATENT_PIXELS
from ..common.out_of_memory import is_out_of_memory
from .architecture import vae_network, vae_numbers
from .host import core_patcher, free_memory, is_dynamic

logger = logging.getLogger(__name__)

Layer = Callable[[torch.Tensor], torch.Tensor]
# The host's VideoDecoder and its residual blocks: as modules they do not tell the types of their layers.
Decoder = Any
Block = Any


def build_vae(tensors: dict[str, torch.Tensor], disable_dynamic: bool = False) -> comfy.sd.VAE:
    """The temporal-decoder VAE as the host's VAE; `tensors` in ComfyUI's names without prefix.

    Raises WeightsError when they are no temporal-decoder VAE, or not all of one.
    """
    numbers = vae_numbers(tensors)
    full_size = numbers["ch"] == 128 and numbers["ch_mult"] == [1, 2, 4, 4] and numbers["num_res_blocks"] == 2
    # Only the host knows how to load its own dynamically; it has no way to be told not to.
    if full_size and not disable_dynamic:
        return ClipVAE(sd=dict(tensors))
    # A plain autoencoder of these numbers first: it sets up everything about a VAE that is not its network.
    channels = numbers["z_channels"]
    vae = ClipVAE(
        sd=_with_quantisation(tensors, channels), config={"params": {"ddconfig": numbers, "embed_dim": channels}}
    )
    vae.first_stage_model = network = vae_network(numbers).to(vae.vae_dtype)
    # For a patcher that keeps the weights in their own format until they are used; older hosts have none.
    getattr(comfy.model_management, "archive_model_dtypes", lambda _: None)(network)
    vae.patcher = core_patcher(network, vae.patcher.load_device, vae.patcher.offload_device, disable_dynamic)
    network.load_state_dict(tensors, strict=False, assign=is_dynamic(vae.patcher))
    vae.size = None
    vae.model_size()
    return vae


def _with_quantisation(tensors: dict[str, torch.Tensor], channels: int) -> dict[str, torch.Tensor]:
    # The plain autoencoder has two 1×1 convolutions that SVD's lacks; without them the host warns of missing weights.
    return {
        **tensors,
        "quant_conv.weight": torch.eye(2 * channels)[..., None, None],
        "quant_conv.bias": torch.zeros(2 * channels),
        "post_quant_conv.weight": torch.eye(channels)[..., None, None],
        "post_quant_conv.bias": torch.zeros(channels),
    }


class ClipVAE(comfy.sd.VAE):
    """SVD's VAE, whose result is always that of the whole clip, up to rounding.

    The host's own cuts a clip into as many batches as memory demands, each then a clip of its own to the temporal
    decoder, and on running out of memory it decodes every frame alone.
    """

    first_stage_model: Any

    def decode(self, samples_in: torch.Tensor, vae_options: dict | None = None) -> torch.Tensor:
        """Frames `[frames, height, width, 3]` in 0…1 of the latents `[frames, 4, h, w]`."""
        if samples_in.ndim != 4 or vae_options:
            return super().decode(samples_in, vae_options or {})
        self.throw_exception_if_invalid()
        with _current(self.device):
            one_frame = self.memory_used_decode(samples_in.shape, self.vae_dtype)
            comfy.model_management.load_models_gpu([self.patcher], memory_required=one_frame)
            at_once = max(1, int(free_memory(self.patcher, self.device) / one_frame))
            if at_once < len(samples_in) and not self._fits_into_ordinary_memory(samples_in):
                return self._decode_as_host(samples_in)
            pixels = self._decode_whole(samples_in) if at_once >= len(samples_in) else None
            while pixels is None:
                pixels = self._decode_in_chunks(samples_in, min(at_once, len(samples_in)))
                at_once //= 2
            return self._frames(pixels).movedim(1, -1)

    def _frames(self, pixels: torch.Tensor) -> torch.Tensor:
        """The decoder's pixels in 0…1 where the host wants them; one frame at a time, so that they are held once."""
        dtype = getattr(self, "vae_output_dtype", lambda: torch.float32)()
        pixels = pixels.detach()
        frames = pixels
        if pixels.dtype != dtype or pixels.device != torch.device(self.output_device):
            frames = torch.empty(pixels.shape, dtype=dtype, device=self.output_device)
        for index, frame in enumerate(pixels):
            # In float32: half precision would round the sums once more.
            frames[index] = self.process_output(frame.float())
        return frames

    def _decode_as_host(self, samples: torch.Tensor) -> torch.Tensor:
        try:
            return super().decode(samples)
        except Exception as error:
            # The host steps down itself where it knows the error.
            if not is_out_of_memory(error):
                raise
        comfy.model_management.soft_empty_cache()
        return self.decode_tiled(samples)

    def _fits_into_ordinary_memory(self, samples: torch.Tensor) -> bool:
        frames, _, height, width = samples.shape
        needed = kept_bytes(
            self.first_stage_model.decoder, frames, LATENT_PIXELS * height, LATENT_PIXELS * width, self.vae_dtype
        )
        free: Any = comfy.model_management.get_free_memory(torch.device("cpu"))
        if needed > free:
            logger.warning(
                "SVD's VAE: decoding %d frames as one clip keeps %.1f GiB in ordinary memory, found %.1f GiB free. "
                "ComfyUI decodes them in pieces, each as a clip of its own: fine detail may change where two pieces "
                "meet.",
                frames,
                needed / 2**30,
                free / 2**30,
            )
        return needed <= free

    def _decode_whole(self, samples: torch.Tensor) -> torch.Tensor | None:
        """None where the device runs out of memory."""
        try:
            return self.first_stage_model.decode(samples.to(self.vae_dtype).to(self.device))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler: the exception holds on to the tensors of the failed call.
        comfy.model_management.soft_empty_cache()
        return None

    def _decode_in_chunks(self, samples: torch.Tensor, frames_at_once: int) -> torch.Tensor | None:
        """None where the device runs out of memory and fewer frames at once can be tried."""
        logger.info(
            "SVD's VAE: decoding %d frames %d at once, the same as the whole clip.", len(samples), frames_at_once
        )
        try:
            # In ordinary memory, where there is more of it: what the decoder keeps of a whole clip is large.
            return decode_in_chunks(
                self.first_stage_model.decoder,
                samples.to("cpu", self.vae_dtype),
                self.device,
                frames_at_once,
                comfy.model_management.throw_exception_if_processing_interrupted,
            )
        except Exception as error:
            if frames_at_once == 1 or not is_out_of_memory(error):
                raise
        comfy.model_management.soft_empty_cache()
        return None


def _current(device: torch.device) -> contextlib.AbstractContextManager:
    """Makes the device torch's current one where the host has several."""
    return getattr(comfy.model_management, "cuda_device_context", lambda _: contextlib.nullcontext())(device)


@torch.no_grad()
def decode_in_chunks(
    decoder: Decoder,
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


def kept_bytes(decoder: Decoder, frames: int, height: int, width: int, dtype: torch.dtype) -> int:
    """What is kept where the latents are, at most, for a video of these sizes in pixels.

    That is the clip before and after the step to the last resolution, the one before at a quarter of the positions.
    """
    last, before = (decoder.up[index].block[0].out_channels for index in (0, 1))
    return frames * height * width * (last + before // 4) * dtype.itemsize


def _blocks(decoder: Decoder, spatial: list[Layer]) -> Iterator[Block]:
    """The residual blocks in their order; before each, `spatial` gets the frame-wise layers that lead to its end."""

    def block(module: Block) -> Block:
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


def _frame_by_frame(
    layers: list[Layer], clip: torch.Tensor, device: torch.device, frames_at_once: int, check: Callable[[], None]
) -> torch.Tensor:
    """The clip after the layers; in place where its shape stays, so that it is held only once."""
    result = clip
    for start in range(0, len(clip), frames_at_once):
        check()
        frames = clip[start : start + frames_at_once].to(device)
        for layer in layers:
            frames = layer(frames)
        if result.shape[1:] != frames.shape[1:]:
            result = clip.new_empty(len(clip), *frames.shape[1:])
        result[start : start + frames_at_once] = frames.to(clip.device)
    return result


def _over_time(
    block: Block, clip: torch.Tensor, device: torch.device, frames_at_once: int, check: Callable[[], None]
) -> None:
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
    def after_first(strip: torch.Tensor) -> torch.Tensor:
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
