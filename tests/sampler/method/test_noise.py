"""The noise streams of a run: independent of one another, the same on every device."""

import torch
from generative_inbetweening.sampler.method.noise import seeded_noise, stream_seed


def test_noise_depends_on_its_seed_alone():
    before = torch.random.get_rng_state()
    assert torch.equal(seeded_noise((3, 4), 7), seeded_noise((3, 4), 7))
    assert not torch.equal(seeded_noise((3, 4), 7), seeded_noise((3, 4), 8))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.isfinite(seeded_noise((2,), 2**64 - 1)).all()


def test_streams_of_a_seed_have_seeds_that_every_generator_takes():
    streams = [("pass", 0), ("pass", 1), ("pass", 11), ("re-injection", 1), ("clip", 1, 1)]
    seeds = [stream_seed(seed, *stream) for seed in (0, 1, 11, 2**64 - 1) for stream in streams]
    assert seeds == [stream_seed(seed, *stream) for seed in (0, 1, 11, 2**64 - 1) for stream in streams]
    # A generator on a CPU takes 32 bits of its seed.
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)
    assert all(0 <= seed < 2**62 for seed in seeds)
