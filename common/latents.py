"""The size of the latents that Stable Video Diffusion works on."""

LATENT_CHANNELS = 4
# Each position stands for a square of so many pixels a side.
LATENT_PIXELS = 8


def latent_shape(frames: int, width: int, height: int) -> tuple[int, int, int, int]:
    """`[frames, 4, height / 8, width / 8]` of a video of that many frames and pixels."""
    return frames, LATENT_CHANNELS, height // LATENT_PIXELS, width // LATENT_PIXELS
