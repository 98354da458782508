"""The host's VAE object for SVD, which decodes a clip as a whole also where memory is short."""

import contextlib
import logging

import comfy.model_management
import comfy.sd
import torch

from .chunked_decoder import decode_in_chunks, kept_bytes
from .host_patchers import free_memory
from .out_of_memory import is_out_of_memory

logger = logging.getLogger(__name__)


class ClipVAE(comfy.sd.VAE):
    """SVD's VAE. The host's own cuts a clip into as many batches as memory demands, each then a clip of its own to the
    temporal decoder, and on running out of memory it decodes every frame alone; here the result is always that of the
    whole clip, up to rounding.
    """

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
        dtype = self.vae_output_dtype() if hasattr(self, "vae_output_dtype") else torch.float32
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
        needed = kept_bytes(self.first_stage_model.decoder, frames, 8 * height, 8 * width, self.vae_dtype)
        free = comfy.model_management.get_free_memory(torch.device("cpu"))
        if needed > free:
            logger.warning(
                "SVD's VAE: decoding %d frames as one clip keeps %.1f GiB in ordinary memory, found %.1f "
                "GiB free. ComfyUI decodes them in pieces, each as a clip of its own: fine detail may "
                "change where two pieces meet.",
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
