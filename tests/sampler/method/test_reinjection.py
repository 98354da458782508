"""Noise re-injection around a sampler."""

import pytest
import torch
from generative_inbetweening.sampler.method.noise import seeded_noise
from generative_inbetweening.sampler.method.reinjection import Reinjection, sample_with_reinjection


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
    sample_with_reinjection(
        None,
        8 * seeded_noise((64, 4, 32, 32), 0),
        sigmas,
        {"seed": 3},
        lambda state: steps.append(state["i"]),
        sampler_function=one_step,
        reinjection=Reinjection(2, 0.5),
    )
    assert steps == [0, 0, 0, 1, 1, 1, 2, 3]
    assert [sigma for _, sigma, _ in passes] == [8, 8, 8, 4, 4, 4, 2, 1]
    # The denoiser here removes a share of everything; what re-injection adds brings the level back to σ.
    assert all(std == pytest.approx(sigma, rel=0.02) for std, sigma, _ in passes)
    assert len({seed for *_, seed in passes[:6]}) == 6


@pytest.mark.parametrize(
    ("steps", "share", "jump_length", "repeat_first_step", "expected"),
    [
        # The release of Time Reversal Fusion: 50 steps, 10 of them early, one jump back over five.
        (50, 0.2, 5, False, [range(5, 10)]),
        (50, 0.2, 5, True, [range(5), range(5, 10)]),
        (8, 0.5, 2, False, [range(2, 4)]),
        (9, 0.8, 3, False, [range(1, 4), range(4, 7)]),
        (5, 1.0, 1, False, [range(step, step + 1) for step in range(1, 5)]),
        (3, 0.5, 5, True, []),
    ],
)
def test_jumps_are_counted_back_from_the_last_repeated_step(steps, share, jump_length, repeat_first_step, expected):
    reinjection = Reinjection(3, share, jump_length, repeat_first_step)
    assert reinjection.jumps(steps) == expected
    assert reinjection.sampler_steps(steps) == steps + 3 * sum(len(jump) for jump in expected)


def test_a_jump_adds_the_noise_of_its_levels_and_makes_their_steps_again():
    sigmas, walk = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.0]), []
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 3, 4, 2, 2, generator=generator)

    def estimate(x, sigma):
        return x / (1 + sigma)

    def euler(model, x, sigmas, extra_args, callback, disable):
        for i in range(len(sigmas) - 1):
            denoised = model(x, sigmas[i])
            x = denoised + sigmas[i + 1] * (x - denoised) / sigmas[i]
            callback({"i": i})
        return x

    x = 8 * torch.randn(3, 4, 2, 2, generator=generator)
    found = sample_with_reinjection(
        estimate,
        x,
        sigmas,
        {"seed": 3},
        lambda state: walk.append(state["i"]),
        sampler_function=euler,
        reinjection=Reinjection(2, 0.6, jump_length=2, repeat_first_step=False, noise_ratio=0.9),
        draw_noise=lambda shape, draw: noise[draw],
    )

    def made(x, steps):
        for step in steps:
            sigma, following = sigmas[step : step + 2].tolist()
            x = estimate(x, sigma) + following * (x - estimate(x, sigma)) / sigma
        return x

    x = made(x, [0, 1, 2])
    for again in (0, 2):
        # From σ = 1 back to 2 and from 2 back to 4.
        x = x + 0.9 * (3**0.5 * noise[again] + 12**0.5 * noise[again + 1])
        x = made(x, [1, 2])
    assert torch.allclose(found, made(x, [3, 4]), atol=1e-5)
    assert walk == [0, 1, 2, 1, 2, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("steps", "share", "expected"), [(50, 0.5, 25), (8, 0.5, 4), (5, 0.4, 2), (10, 0.3, 3), (3, 1.0, 3), (7, 0.0, 0)]
)
def test_share_of_the_steps_is_rounded_down(steps, share, expected):
    reinjection = Reinjection(5, share)
    assert reinjection.early_steps(steps) == expected
    assert reinjection.sampler_steps(steps) == steps + 5 * expected


def test_no_reinjection_is_the_sampler_itself():
    def sampler(model, x, sigmas, extra_args, callback, disable):
        return x * len(sigmas)

    x, sigmas = torch.ones(1), torch.tensor([2.0, 1.0, 0.0])
    found = sample_with_reinjection(
        None, x, sigmas, {"seed": 5}, None, sampler_function=sampler, reinjection=Reinjection(0, 0.5)
    )
    assert found == 3
