"""What a model, a picture or a setting holds decides on its fingerprint, and nothing else does."""

import sys
import threading
import types
from pathlib import Path

import comfy.hooks
import pytest
import torch
from comfy.patcher_extension import CallbacksMP
from generative_inbetweening.sequence.fingerprint import CannotBeKnown, fingerprint, model_fingerprint
from generative_inbetweening.weights.attach import beside_its_weights
from helpers.sequences import Scaling
from helpers.small_model import load

OUTPUT = "diffusion_model.out.2.weight"


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """The same models, loaded again."""
    return load(tmp_path_factory.mktemp("others"))


def keys(*requests) -> set[str]:
    return {model_fingerprint(*request) for request in requests}


@pytest.mark.slow
def test_every_number_of_every_model_counts(models, others):
    assert len(keys(models, others)) == 1
    for module in (others[0].model.diffusion_model, others[1].model, others[2].first_stage_model):
        weights = list(module.parameters())
        for weight in (weights[1], weights[-1]):
            before = weight.detach().clone()
            weight.data.flatten()[-1] += 1
            assert len(keys(models, others)) == 2
            weight.data.copy_(before)
    assert len(keys(models, others)) == 1


def test_weights_of_the_backward_motion_and_their_strength_count(models, tmp_path):
    (bank,) = models[0].additional_models.values()
    weight = next(bank[0].model.parameters())
    first = keys(models)
    weight.data.mul_(1.5)
    second = keys(models)
    weight.data.div_(1.5)
    assert keys(models) == first != second


def test_where_a_copy_of_the_backward_motion_is_does_not_count(models):
    before, moved = keys(models), models[0].clone()
    moved.load_device = torch.device("cpu", 0)
    assert beside_its_weights(moved) is not moved
    assert keys(models) == before


@pytest.mark.slow
def test_what_callbacks_attachments_and_hooks_hold_counts(models):
    def put(change):
        model = models[0].clone()
        change(model)
        return model, *models[1:]

    requests = [models]
    for number in (1.0, 2.0):
        requests.append(put(lambda model, number=number: model.add_callback(CallbacksMP.ON_PRE_RUN, lambda _: number)))
        requests.append(put(lambda model, number=number: model.set_attachments("mine", {"deep": [[[[[(number,)]]]]]})))
        hook = comfy.hooks.WeightHook(strength_model=number)
        requests.append(
            put(
                lambda model, number=number, hook=hook: model.add_hook_patches(
                    hook, {OUTPUT: ("diff", (torch.ones(1),))}, number
                )
            )
        )
        requests.append(
            put(lambda model, number=number: model.set_model_patch_replace(Scaling(number), "attn1", "input", 1))
        )
    assert len(keys(*requests)) == len(requests)


def test_a_hook_on_a_module_counts(models):
    before = keys(models)
    handle = models[0].model.diffusion_model.out[2].register_forward_hook(lambda module, args, result: result * 2)
    changed = keys(models)
    handle.remove()
    assert keys(models) == before != changed


def test_values_of_many_kinds():
    class Slots:
        __slots__ = ("number",)

        def __init__(self, number):
            self.number = number

    class Other(Slots):
        pass

    def returning(number, default=0):
        return lambda: (number, default)

    values = [
        None,
        0,
        0.0,
        -0.0,
        False,
        "",
        "\ud800",
        b"",
        (),
        [],
        {},
        set(),
        {"a": 1},
        {"a": 2},
        {"b": 1},
        {"a": 1, "b": 2},
        {"b": 2, "a": 1},
        float("nan"),
        Slots(1),
        Slots(2),
        Other(1),
        returning(1),
        returning(2),
        returning(1, 1),
        Scaling(1),
        Scaling(2),
        Scaling(1).__call__,
        len,
        torch.sin,
        torch.zeros(2),
        torch.zeros(2, 1),
        torch.zeros(2).half(),
        torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(4)[::2] + 1,
        torch.float16,
        torch.Generator().manual_seed(1),
        torch.Generator().manual_seed(2),
        torch.nn.Linear(1, 1),
        torch.nn.Identity(),
        torch.nn.ReLU(),
        Path("a"),
        Path("b"),
        range(2),
        {1, 2},
        frozenset((1, 2)),
        iter([1, 2]),
        2**70,
        1j,
    ]
    digits = [fingerprint(value) for value in values]
    assert len(set(digits)) == len(values) and digits == [fingerprint(value) for value in values]
    assert fingerprint(Scaling(1)) == fingerprint(Scaling(1)) and fingerprint({1, "a"}) == fingerprint({"a", 1})
    circle = [1]
    circle.append(circle)
    assert fingerprint(circle) != fingerprint([1])


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        ((number for number in range(9)), "generator"),
        (threading.Lock(), "lock"),
        (torch.zeros(1, device="meta"), "Tensor"),
    ],
)
def test_what_cannot_be_looked_into_is_not_known(thing, name):
    with pytest.raises(CannotBeKnown, match=f"{name}.* in .*Scaling"):
        fingerprint([Scaling(Scaling(thing))])


def test_numbers_of_another_packs_module_count(monkeypatch):
    imported, in_a_package = (types.ModuleType("another_pack") for _ in range(2))
    in_a_package.settings = types.ModuleType("another_pack.settings")
    later = types.ModuleType("imported_later")
    monkeypatch.setitem(globals(), "another_pack", in_a_package)
    monkeypatch.setitem(sys.modules, "imported_later", later)

    def patch(arguments):
        from imported_later import FACTOR

        return arguments["denoised"] * imported.SCALE * another_pack.settings.STRENGTH * FACTOR  # noqa: F821

    digits = []
    for imported.SCALE, in_a_package.settings.STRENGTH, later.FACTOR, imported.LOCK in (
        (1.0, 1.0, 1.0, None),
        (2.0, 1.0, 1.0, None),
        (1.0, 2.0, 1.0, None),
        (1.0, 1.0, 2.0, None),
        (1.0, 1.0, 1.0, threading.Lock()),
    ):
        digits.append(fingerprint(patch))
    assert len(set(digits)) == 4 and digits[0] == digits[4]


def test_nested_too_deeply_is_not_known():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CannotBeKnown, match="list"):
        fingerprint(deep)
