"""The size of the latents that Stable Video Diffusion works on."""

LATENT_CHANNELS = 4
# A position of the latents is an 8×8-pixel square.
LATENT_PIXELS = 8


def latent_shape(frames: int, width: int, height: int) -> tuple[int, int, int, int]:
    """`[frames, 4, height / 8, width / 8]` of a video of that many frames and pixels."""
    return frames, LATENT_CHANNELS, height // LATENT_PIXELS, width // LATENT_PIXELS
