"""All noise of a run is drawn from streams that are independent, with every sampler of the host.

The model here gives zeros. Latents at noise level σ are then noise of standard deviation σ and nothing else, and every
sampler of the host keeps them so, however it draws: this follows from its equations with a denoised estimate of 0. Two
draws that are equal, or alike, raise or lower the level.
"""

import inspect
from itertools import combinations, pairwise
from types import SimpleNamespace

import comfy.patcher_extension
import comfy.samplers
import comfy_extras.nodes_advanced_samplers
import comfy_extras.nodes_custom_sampler
import pytest
import torch
from comfy.k_diffusion.sampling import sample_euler
from comfy.sample import prepare_noise
from comfy_extras.nodes_custom_sampler import DisableNoise, RandomNoise, SamplerCustomAdvanced
from generative_inbetweening.nodes import InbetweenDualDirectionGuider, InbetweenReinjectionSampler
from generative_inbetweening.sampler import keyframes as encoding
from generative_inbetweening.sampler.method import alternating
from generative_inbetweening.sampler.method.noise import seeded_noise
from generative_inbetweening.sampler.method.reinjection import Reinjection
from generative_inbetweening.sampler.samplers import ReinjectionSampler
from helpers.small_model import encode, sample

LARGEST = 2**64 - 1
SIGMAS = torch.tensor([80.0, 20.0, 10.0, 5.0, 1.0, 0.0])
# Five times the standard deviation of the correlation of independent draws of 32,768 numbers.
UNCORRELATED = 0.028


@pytest.fixture(scope="module")
def encoded(models):
    """Keyframes whose latents have numbers enough: 2 % are five times the standard deviation of a measured level."""
    return encode(models, frames=8, width=256, height=256)


@pytest.fixture
def zeros(models):
    """(the model with every estimate 0, [(σ, x) of each evaluation])."""
    evaluations, model = [], models[0].clone()

    def predict(executor, x, timestep, model_options, seed):
        evaluations.append((float(timestep[0]), x.clone()))
        denoised = torch.zeros_like(x)
        # CFG++ samplers take the unconditional estimate from here.
        for function in model_options.get("sampler_post_cfg_function", []):
            function({"denoised": denoised, "uncond_denoised": denoised, "cond_denoised": denoised})
        return denoised

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "zeros", predict)
    return model, evaluations


def increments(states: list[torch.Tensor]) -> list[torch.Tensor]:
    """The first state, and what each has that is no multiple of the one before."""
    parts = states[:1]
    for before, after in pairwise(states):
        new = after - before * (after * before).sum() / (before * before).sum()
        if new.std() > 1e-3 * after.std():
            parts.append(new)
    return parts


def assert_independent(evaluations: list[tuple[float, torch.Tensor]], levels: list[float], initial: torch.Tensor):
    for sigma, x in evaluations:
        assert x.std().item() == pytest.approx(sigma, rel=0.02)
    # A sampler's evaluations between the levels share the noise of the step around them, by their own equations.
    states = [x for sigma, x in evaluations if any(abs(sigma / level - 1) < 1e-4 for level in levels if level > 0)]
    for one, other in combinations(increments([initial, *states]), 2):
        assert abs(correlation(one, other)) < UNCORRELATED


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].item()


def sampled(zeros, encoded, sampler, seed: int, sigmas: torch.Tensor = SIGMAS) -> torch.Tensor:
    """The latents through the Dual-Direction Guider, the host's RandomNoise and its SamplerCustomAdvanced."""
    (guider,) = InbetweenDualDirectionGuider.execute(
        zeros[0], *encoded[:2], strategy="dual-direction", temporal_attention="rotated", videos_per_call="2"
    ).args
    (noise,) = RandomNoise.execute(seed).args
    return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, encoded[2]).args[0]["samples"]


def initial_noise(encoded, seed: int) -> torch.Tensor:
    return RandomNoise.execute(seed).args[0].generate_noise(encoded[2])


@pytest.mark.parametrize(("reinjections", "jump_length"), [(0, 1), (2, 1), (1, 2), (1, 3)])
@pytest.mark.parametrize("name", comfy.samplers.KSampler.SAMPLERS)
def test_noise_is_independent_with_every_sampler_of_the_host(zeros, encoded, name, reinjections, jump_length):
    if name == "ar_video":
        pytest.skip("takes five-dimensional latents only")
    sampler = comfy.samplers.sampler_object(name)
    (sampler,) = InbetweenReinjectionSampler.execute(sampler, reinjections, 0.6, jump_length).args
    sampled(zeros, encoded, sampler, 3)
    assert_independent(zeros[1], SIGMAS.tolist(), initial_noise(encoded, 3))


def sampler_nodes() -> list:
    """The host's nodes that make a SAMPLER from numbers and choices."""
    modules = comfy_extras.nodes_custom_sampler, comfy_extras.nodes_advanced_samplers
    return [
        node
        for module in modules
        for name, node in inspect.getmembers(module, inspect.isclass)
        if name.startswith("Sampler") and list(getattr(node, "RETURN_TYPES", ())) == ["SAMPLER"]
    ]


def made_by(node, model):
    """The SAMPLER of a node with its default inputs, and as much noise of its own as its equations have."""
    inputs = {}
    for name, (kind, options) in node.INPUT_TYPES()["required"].items():
        choices = options.get("options") if kind == "COMBO" else kind
        # What a widget without a default begins with.
        first = choices[0] if isinstance(choices, list) else {"BOOLEAN": False}.get(kind)
        inputs[name] = model if kind == "MODEL" else options.get("default", first)
    if "eta" in inputs:
        inputs["eta"] = 1.0
    return node.execute(**inputs).args[0] if hasattr(node, "execute") else getattr(node(), node.FUNCTION)(**inputs)[0]


@pytest.mark.parametrize("reinjections", [0, 2])
@pytest.mark.parametrize("node", sampler_nodes(), ids=lambda node: node.__name__)
def test_noise_is_independent_with_every_sampler_node_of_the_host(zeros, encoded, node, reinjections):
    (sampler,) = InbetweenReinjectionSampler.execute(made_by(node, zeros[0]), reinjections, 0.6).args
    sampled(zeros, encoded, sampler, 3)
    assert_independent(zeros[1], SIGMAS.tolist(), initial_noise(encoded, 3))


def test_noise_is_independent_with_a_sampler_that_draws_from_the_global_generator(zeros, encoded):
    sampler = comfy.samplers.ksampler("euler", {"s_churn": 2.0})
    (sampler,) = InbetweenReinjectionSampler.execute(sampler, 2, 0.6).args
    sampled(zeros, encoded, sampler, 3)
    assert_independent(zeros[1], [sigma for sigma, _ in zeros[1]], initial_noise(encoded, 3))


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_sde", "ddim", "lcm"])
def test_noise_is_independent_with_a_sampler_of_the_host_alone(zeros, encoded, name):
    sampled(zeros, encoded, comfy.samplers.sampler_object(name), 3)
    assert_independent(zeros[1], SIGMAS.tolist(), initial_noise(encoded, 3))


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**63, LARGEST - 1, LARGEST])
@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde", "ddim"])
def test_noise_is_independent_with_every_seed(zeros, encoded, name, seed):
    sample(zeros[0], encoded, seed=seed, sampler_name=name, scheduler="karras", steps=4, reinjections=2)
    levels = sorted({sigma for sigma, _ in zeros[1]})
    assert_independent(zeros[1], levels, initial_noise(encoded, seed))


def test_noise_is_independent_in_a_run_of_several_parts(zeros, encoded):
    """Each part but the first goes on without noise, by the host with seed 0, as the first one may have had it."""
    (guider,) = InbetweenDualDirectionGuider.execute(
        zeros[0], *encoded[:2], strategy="dual-direction", temporal_attention="rotated", videos_per_call="2"
    ).args
    (sampler,) = InbetweenReinjectionSampler.execute(comfy.samplers.sampler_object("euler_ancestral"), 1, 1.0).args
    latent, noise = encoded[2], RandomNoise.execute(0).args[0]
    for sigmas in (SIGMAS[:3], SIGMAS[2:4], SIGMAS[3:]):
        latent = SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]
        (noise,) = DisableNoise.execute().args
    assert_independent(zeros[1], SIGMAS.tolist(), initial_noise(encoded, 0))


@pytest.mark.parametrize("sigmas", [SIGMAS[:2], SIGMAS[3:5], SIGMAS[-2:]])
@pytest.mark.parametrize("name", comfy.samplers.KSampler.SAMPLERS)
def test_every_sampler_of_the_host_makes_a_single_step(zeros, encoded, name, sigmas):
    """Re-injections run every early step by itself.

    With a constant estimate c a step σ → σ′ takes the mean from 0 to (1 − σ′/σ) c, and further with noise of its own.
    """
    if name == "ar_video":
        pytest.skip("takes five-dimensional latents only")
    sampler = ReinjectionSampler(comfy.samplers.sampler_object(name), Reinjection(1, 1.0)).extra_options[
        "sampler_function"
    ]
    estimate = 100.0

    class Model:
        inner_model = SimpleNamespace(model_patcher=zeros[0], inner_model=zeros[0].model)

        def __call__(self, x, sigma, model_options, **_):
            denoised = torch.full_like(x, estimate)
            for function in model_options.get("sampler_post_cfg_function", []):
                function({"denoised": denoised, "uncond_denoised": denoised, "cond_denoised": denoised})
            return denoised

    x = sampler(
        Model(),
        sigmas[0] * initial_noise(encoded, 0),
        sigmas,
        extra_args={"seed": 1, "model_options": {}},
        callback=lambda state: None,
        disable=True,
    )
    mean = (1 - sigmas[1] / sigmas[0]).item() * estimate
    assert mean - 1 < x.mean().item() <= estimate + 1


@pytest.mark.parametrize("strategy", ["alternating", "alternating-backward-motion"])
def test_new_noise_between_alternating_half_steps_is_independent(models, encoded, strategy, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        alternating, "seeded_noise", lambda shape, seed: drawn.append(seeded_noise(shape, seed)) or drawn[-1]
    )
    sample(models[0], encode(models), strategy=strategy, seed=LARGEST, steps=3)
    noise = [prepare_noise(drawn[0], LARGEST), *drawn]
    assert len(noise) == 4
    assert all(abs(correlation(one, other)) < 0.2 for one, other in combinations(noise, 2))


def test_augmentation_noise_is_not_the_first_latents_of_the_same_seed(models, monkeypatch):
    """Both have as many numbers from a generator as the smaller one has."""
    drawn = []
    monkeypatch.setattr(
        encoding, "add_augmentation_noise", lambda picture, noise, level: drawn.append(noise) or picture * 2 - 1
    )
    latent = encode(models, seed=5, noise_augmentation=0.02)[2]["samples"]
    assert len(drawn) == 2 and torch.equal(*drawn)
    first = prepare_noise(latent, 5).flatten()
    assert abs(correlation(drawn[0].flatten()[: len(first)], first)) < 0.2


def test_two_noise_reinjection_samplers_in_a_row_are_one_sentence():
    (once,) = InbetweenReinjectionSampler.execute(comfy.samplers.sampler_object("euler"), 2, 0.5).args
    with pytest.raises(ValueError, match="^sampler: expected a sampler without re-injections, found a Noise Re-inj"):
        InbetweenReinjectionSampler.execute(once, 1, 0.5)


def test_options_of_the_wrapped_sampler_may_have_the_names_of_ours(zeros, encoded):
    def shared(model, x, sigmas, extra_args, callback, disable, share):
        assert share == "its own"
        return sample_euler(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)

    (sampler,) = InbetweenReinjectionSampler.execute(comfy.samplers.KSAMPLER(shared, {"share": "its own"}), 1, 0.6).args
    sampled(zeros, encoded, sampler, 1)
    assert len(zeros[1]) == 8


def test_alternating_sampling_does_not_drop_options_of_its_sampler(zeros, encoded):
    (guider,) = InbetweenDualDirectionGuider.execute(
        zeros[0], *encoded[:2], strategy="alternating", temporal_attention="own", videos_per_call="2"
    ).args
    (noise,) = RandomNoise.execute(1).args
    with pytest.raises(ValueError, match="sampler: expected euler, found euler with s_churn"):
        SamplerCustomAdvanced.execute(
            noise, guider, comfy.samplers.ksampler("euler", {"s_churn": 1.0}), SIGMAS, encoded[2]
        )


@pytest.mark.parametrize("strategy", ["dual-direction", "alternating"])
def test_noise_levels_that_rise_are_named_where_noise_is_added_back(zeros, encoded, strategy):
    (guider,) = InbetweenDualDirectionGuider.execute(
        zeros[0], *encoded[:2], strategy=strategy, temporal_attention="rotated", videos_per_call="2"
    ).args
    euler, rising = comfy.samplers.sampler_object("euler"), SIGMAS[:-1].flip(0)
    (again,) = InbetweenReinjectionSampler.execute(euler, 1, 1.0).args
    noise = RandomNoise.execute(0).args[0]
    if strategy == "alternating":
        with pytest.raises(ValueError, match="^sampler: expected euler, found a Noise Re-injection Sampler: "):
            SamplerCustomAdvanced.execute(noise, guider, again, SIGMAS, encoded[2])
    else:
        unsampled = SamplerCustomAdvanced.execute(noise, guider, euler, rising, encoded[2]).args[0]["samples"]
        assert unsampled.isfinite().all()
    with pytest.raises(ValueError, match="^sigmas: expected noise levels that fall"):
        sampler = euler if strategy == "alternating" else again
        SamplerCustomAdvanced.execute(noise, guider, sampler, rising, encoded[2])
