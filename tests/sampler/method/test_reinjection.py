"""Noise re-injection around a sampler."""

import pytest
import torch
from generative_inbetweening.sampler.method import reinjection
from generative_inbetweening.sampler.method.noise import seeded_noise


def test_reinjection_goes_back_to_the_noise_level():
    sigmas = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])
    passes = []

    def one_step(model, x, sigmas, extra_args, callback, disable):
        for i in range(len(sigmas) - 1):
            passes.append((x.std().item(), sigmas[i].item(), extra_args["seed"]))
            x = x / sigmas[i] * sigmas[i + 1]
            callback({"i": i})
        return x

    steps = []
    reinjection.sample_with_reinjection(
        None,
        8 * seeded_noise((64, 4, 32, 32), 0),
        sigmas,
        {"seed": 3},
        lambda state: steps.append(state["i"]),
        sampler_function=one_step,
        reinjections=2,
        share=0.5,
    )
    assert steps == [0, 0, 0, 1, 1, 1, 2, 3]
    assert [sigma for _, sigma, _ in passes] == [8, 8, 8, 4, 4, 4, 2, 1]
    # The denoiser here removes a share of everything; what re-injection adds brings the level back to σ.
    assert all(std == pytest.approx(sigma, rel=0.02) for std, sigma, _ in passes)
    assert len({seed for *_, seed in passes[:6]}) == 6


@pytest.mark.parametrize(
    ("steps", "share", "expected"), [(50, 0.5, 25), (8, 0.5, 4), (5, 0.4, 2), (10, 0.3, 3), (3, 1.0, 3), (7, 0.0, 0)]
)
def test_share_of_the_steps_is_rounded_down(steps, share, expected):
    assert reinjection.reinjected_steps(steps, share) == expected
    assert reinjection.steps_with_reinjections(steps, 5, share) == steps + 5 * expected


def test_no_reinjection_is_the_sampler_itself():
    def sampler(model, x, sigmas, extra_args, callback, disable):
        return x * len(sigmas)

    x, sigmas = torch.ones(1), torch.tensor([2.0, 1.0, 0.0])
    found = reinjection.sample_with_reinjection(
        None, x, sigmas, {"seed": 5}, None, sampler_function=sampler, reinjections=0, share=0.5
    )
    assert found == 3
