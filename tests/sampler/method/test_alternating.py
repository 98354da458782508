"""Alternating steps on plain tensors, against the algorithm of their paper."""

import pytest
import torch
from generative_inbetweening.sampler.method.alternating import (
    ONE_DIRECTION,
    KeyframeLatents,
    alternating_half_steps,
    sample_alternating,
)
from generative_inbetweening.sampler.method.motion_prior import Distillation, distilled_estimate
from helpers.small_model import FRAMES
from helpers.two_unets import two_unet_alternating


@pytest.mark.parametrize(
    ("share", "passes", "distilled_steps"), [(0.0, 3, 0), (0.5, 0, 0), (0.1, 1, 1), (0.5, 3, 2), (1.0, 2, 3)]
)
def test_alternating_sampling_is_the_algorithm_of_its_paper(share, passes, distilled_steps):
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
    evaluated, distillation = [], Distillation(share, passes)
    found = sample_alternating(
        model,
        x,
        sigmas,
        {"seed": 7, "model_options": {}},
        lambda state: evaluated.append(state["i"]),
        keyframes=KeyframeLatents(first[None], last[None]),
        distillation=distillation,
    )
    written_out = two_unet_alternating(estimates, x, sigmas.tolist(), first, last, 7, distilled_steps, passes)
    assert torch.allclose(found, written_out, atol=1e-5)
    assert distillation.steps(3) == (distilled_steps if passes else 0)
    assert len(evaluated) == alternating_half_steps(3, distillation) == 6 + passes * distilled_steps


def test_distilled_steps_are_rounded_up_as_in_the_release():
    assert [Distillation(share, 1).steps(25) for share in (0.0, 0.1, 0.2, 0.28, 1.0)] == [0, 3, 5, 7, 25]


def test_the_distilled_estimate_ends_at_the_keyframe_with_the_motion_of_the_forward_one():
    forward, last = torch.randn(5, 4, 2, 2), torch.randn(1, 4, 2, 2)
    distilled = distilled_estimate(forward, last)
    assert torch.allclose(distilled[-1], last[0], atol=1e-6)
    assert torch.allclose(distilled.diff(dim=0), forward.diff(dim=0), atol=1e-5)
    mask = torch.ones(5, 1, 1, 1)
    mask[1] = 0
    kept = distilled_estimate(forward, last, mask)
    assert torch.equal(kept[1], forward[1]) and torch.allclose(kept[2:], distilled[2:])
