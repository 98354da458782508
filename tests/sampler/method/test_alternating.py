"""Alternating steps on plain tensors, against the algorithm of their paper."""

import torch
from generative_inbetweening.sampler.method.alternating import ONE_DIRECTION, KeyframeLatents, sample_alternating
from helpers.small_model import FRAMES
from helpers.two_unets import two_unet_alternating


def test_alternating_sampling_is_the_algorithm_of_its_paper():
    generator = torch.Generator().manual_seed(0)
    first, last = torch.randn(2, 4, 3, 3, generator=generator)
    pull = {"forward": torch.randn(4, 3, 3, generator=generator), "backward": torch.randn(4, 3, 3, generator=generator)}
    ramp = torch.linspace(1, 2, FRAMES).view(-1, 1, 1, 1)

    def estimates(x, sigma, direction):
        """Differs from frame to frame, between the directions, and with and without conditioning."""
        return ramp * pull[direction] + x / (1 + sigma), x / (2 + sigma)

    def model(x, sigma, model_options, seed):
        direction = model_options[ONE_DIRECTION]
        turned = x.flip(0) if direction == "backward" else x
        conditional, unconditional = estimates(turned, float(sigma[0]), direction)
        results = [e.flip(0) if direction == "backward" else e for e in (conditional, unconditional)]
        assert model_options["disable_cfg1_optimization"]
        for function in model_options["sampler_post_cfg_function"]:
            function({"denoised": results[0], "uncond_denoised": results[1]})
        return results[0]

    sigmas = torch.tensor([10.0, 3.0, 0.5, 0.0])
    x = 10 * torch.randn(FRAMES, 4, 3, 3, generator=generator)
    found = sample_alternating(
        model, x, sigmas, {"seed": 7, "model_options": {}}, keyframes=KeyframeLatents(first[None], last[None])
    )
    assert torch.allclose(found, two_unet_alternating(estimates, x, sigmas.tolist(), first, last, 7), atol=1e-5)
