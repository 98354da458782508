"""The one-UNet training step against a plain statement of it with two UNets and stored attention maps."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from generative_inbetweening.training.model import BackwardMotionModel, enable_gradient_checkpointing
from generative_inbetweening.training.svd import temporal_self_attentions, use_original_group_norm
from helpers.tiny_svd import FRAMES, tiny_unet

BATCH, LATENT = 2, 4


def step_inputs(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random).to(dtype)

    return {
        "latents": normal(BATCH, FRAMES, 4, LATENT, LATENT),
        "noise": normal(BATCH, FRAMES, 4, LATENT, LATENT),
        "sigma": torch.tensor([0.7, 5.0], dtype=dtype),
        "first_latent": normal(BATCH, 4, LATENT, LATENT),
        "last_latent": normal(BATCH, 4, LATENT, LATENT),
        "first_embedding": normal(BATCH, 1, 32),
        "last_embedding": normal(BATCH, 1, 32),
        "time_ids": torch.tensor([[6.0, 127.0, 0.02]] * BATCH, dtype=dtype),
    }


class WholeMap:
    """Attention with the map as a tensor, kept (`given` is None) or given from outside."""

    def __init__(self, given: torch.Tensor | None = None) -> None:
        self.given = given
        self.kept: torch.Tensor | None = None

    def __call__(self, attn, hidden_states, **_):
        def split(projected: torch.Tensor) -> torch.Tensor:
            rows, frames, width = projected.shape
            return projected.reshape(rows, frames, attn.heads, width // attn.heads).permute(0, 2, 1, 3)

        probabilities = self.given
        if probabilities is None:
            query, key = split(attn.to_q(hidden_states)), split(attn.to_k(hidden_states))
            probabilities = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1)
            self.kept = probabilities
        attended = probabilities @ split(attn.to_v(hidden_states))
        return attn.to_out[0](attended.permute(0, 2, 1, 3).reshape(hidden_states.shape))


def two_unet_step(unet: torch.nn.Module, inputs: dict[str, torch.Tensor], maps: str) -> tuple[torch.Tensor, dict]:
    """Loss and the 32 gradients, by name, of the method as the paper states it: two networks, maps in between."""
    reference, trained = copy.deepcopy(unet), copy.deepcopy(unet)
    sigma = inputs["sigma"].view(-1, 1, 1, 1, 1)

    def run(network: torch.nn.Module, noisy: torch.Tensor, keyframe: str) -> torch.Tensor:
        latent = inputs[f"{keyframe}_latent"].unsqueeze(1).repeat(1, FRAMES, 1, 1, 1)
        sample = torch.cat([noisy / (sigma**2 + 1) ** 0.5, latent], dim=2)
        return network(sample, 0.25 * inputs["sigma"].log(), inputs[f"{keyframe}_embedding"], inputs["time_ids"]).sample

    recorders = {name: WholeMap() for name in temporal_self_attentions(reference)}
    for name, layer in temporal_self_attentions(reference).items():
        layer.set_processor(recorders[name])
    with torch.no_grad():
        run(reference, inputs["latents"] + inputs["noise"].flip(1) * sigma, "first")
    named = {}
    for name, layer in temporal_self_attentions(trained).items():
        rotated = torch.rot90(recorders[name].kept, 2, dims=(-2, -1))
        layer.set_processor(WholeMap(rotated if maps == "rotated" else None))
        named |= {f"{name}.to_v.weight": layer.to_v.weight, f"{name}.to_out.0.weight": layer.to_out[0].weight}
    for weight in named.values():
        weight.requires_grad_(True)
    target = inputs["latents"].flip(1)
    noisy = target + inputs["noise"] * sigma
    velocity = run(trained, noisy, "last")
    denoised = noisy / (sigma**2 + 1) - velocity * sigma / (sigma**2 + 1) ** 0.5
    loss = ((1 + sigma**2) / sigma**2 * (denoised - target) ** 2).mean()
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in named.items()}


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    return use_original_group_norm(tiny_unet()).double()


@pytest.mark.parametrize("maps", ["rotated", "own"])
def test_loss_and_all_gradients_equal_the_two_unet_statement(unet, maps):
    inputs = step_inputs()
    expected_loss, expected = two_unet_step(unet, inputs, maps)
    model = BackwardMotionModel(copy.deepcopy(unet), maps, torch.float64)
    loss = model(**inputs).mean()
    loss.backward()
    assert len(expected) == len(model.named_trainable()) == 32
    torch.testing.assert_close(loss.detach(), expected_loss, rtol=1e-12, atol=0)
    for name, parameter in model.named_trainable().items():
        largest = expected[name].abs().max()
        assert largest > 0
        torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=float(largest) * 1e-9, msg=name)


def test_the_two_kinds_of_maps_differ(unet):
    inputs = step_inputs()
    model = BackwardMotionModel(copy.deepcopy(unet), "rotated", torch.float64)
    with torch.no_grad():
        rotated, own = model(**inputs).mean(), model(**inputs, maps="own").mean()
    assert abs(rotated - own) > 1e-6 * abs(own)


@pytest.mark.parametrize("maps", ["rotated", "own"])
def test_gradient_checkpointing_changes_no_gradient(unet, maps):
    gradients = []
    for recompute in (False, True):
        network = copy.deepcopy(unet).float()
        model = BackwardMotionModel(network, maps)
        if recompute:
            enable_gradient_checkpointing(network)
        model(**step_inputs(torch.float32)).mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(kept, recomputed) for kept, recomputed in zip(*gradients, strict=True))


def test_a_second_reference_pass_after_the_backward_pass_is_clean(unet):
    """Two steps in a row give what each gives alone: no map of an earlier step is left in use."""
    model = BackwardMotionModel(copy.deepcopy(unet), "rotated", torch.float64)
    inputs = step_inputs()
    others = {**inputs, "latents": inputs["latents"] * 0.3, "first_embedding": -inputs["first_embedding"]}
    alone = model(**inputs).mean().item()
    model(**others).mean().backward()
    assert model(**inputs).mean().item() == alone


def test_the_frozen_network_gets_no_gradients_and_stays_as_it_was(unet):
    network = copy.deepcopy(unet)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = BackwardMotionModel(network, "rotated", torch.float64)
    model(**step_inputs()).mean().backward()
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(difference.abs().max() > 0 for difference in model.differences().values())


def test_parameters_in_memory_are_one_unet_plus_two_percent():
    gc.collect()
    others = {id(each) for each in gc.get_objects() if type(each) is torch.nn.Parameter}
    network = tiny_unet(width=64)
    one_unet = sum(parameter.nbytes for parameter in network.parameters())
    model = BackwardMotionModel(network)
    model(**step_inputs(torch.float32)).mean().backward()
    gc.collect()
    alive = {
        each.untyped_storage().data_ptr(): each.nbytes
        for each in gc.get_objects()
        if type(each) is torch.nn.Parameter and id(each) not in others
    }
    assert one_unet < sum(alive.values()) <= 1.02 * one_unet


def test_half_precision_keeps_the_trained_matrices_in_float32():
    model = BackwardMotionModel(tiny_unet(), "rotated", torch.bfloat16)
    loss = model(**step_inputs(torch.float32)).mean()
    loss.backward()
    assert model.unet.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert all(each.dtype == each.grad.dtype == torch.float32 for each in model.parameters())
    assert all(each.abs().max() == 0 for each in model.differences().values())


def test_group_norm_eps_is_the_original_one():
    """Residual blocks: 1e-5. The norm in front of each transformer keeps 1e-6, as in the original."""
    eps = {
        name: module.eps
        for name, module in use_original_group_norm(tiny_unet()).named_modules()
        if isinstance(module, torch.nn.GroupNorm)
    }
    transformers = {name for name in eps if name.endswith(".norm")}
    assert len(transformers) == 16
    assert {eps[name] for name in transformers} == {1e-6}
    assert {value for name, value in eps.items() if name not in transformers} == {1e-5}
