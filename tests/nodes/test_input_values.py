"""Values that come by links, which the host does not check: an input takes what it can and names the rest."""

import types

import numpy as np
import pytest
import torch
from comfy_api.internal import make_locked_method_func
from comfy_api.latest import io
from generative_inbetweening.nodes import (
    NODES,
    InbetweenConvertBackwardMotion,
    InbetweenDualDirectionKSampler,
    InbetweenEncodeKeyframes,
    InbetweenKeyframeSequence,
    InbetweenLoadBackwardMotion,
    InbetweenLoadSVD,
    InbetweenMiddleKeyframe,
    InbetweenSettings,
)
from generative_inbetweening.nodes.values import checked_value
from generative_inbetweening.sequence.keyframe_chain import KeyframeChain
from helpers.model_folders import backward_motion_folder
from helpers.small_model import SETTINGS, encode, pictures, settings

LOADERS = (InbetweenLoadSVD, InbetweenLoadBackwardMotion, InbetweenConvertBackwardMotion)
NAN, INFINITE = float("nan"), float("inf")
WIDGETS = (io.Int.Input, io.Float.Input, io.Boolean.Input, io.String.Input, io.Combo.Input)
MODELS = ("MODEL", "CLIP_VISION", "VAE")
# Longer than any message should be, and nothing that a console can print.
SURROGATES = "\ud800" * 5000
ANYTHING_ELSE = [None, (), [3], {}, object(), torch.ones(2), SURROGATES]


def wrong_values(item: io.Input) -> list:
    if isinstance(item, (io.Int.Input, io.Float.Input)):
        step = 1 if isinstance(item, io.Int.Input) else 1e-3
        wrong = [
            "64",
            NAN,
            INFINITE,
            -INFINITE,
            True,
            10**5000,
            -(10**5000),
            np.float32(NAN),
            item.min - step,
            item.max + step,
            1e300,
        ]
        return wrong + ([3.5, np.float64(3.5)] if isinstance(item, io.Int.Input) else [])
    if isinstance(item, io.Boolean.Input):
        return ["yes", 2, NAN]
    return [5, NAN, True] + (["nonsense"] if isinstance(item, io.Combo.Input) else [])


@pytest.fixture(scope="module")
def connected(models):
    """A good value for everything that a link must bring, by the input's name."""
    positive, negative, latent = encode(models)
    first, last = pictures()
    backward_motion_folder()
    return {
        "model": models[0],
        "clip_vision": models[1],
        "vae": models[2],
        "first_keyframe": first,
        "last_keyframe": last,
        "image": first,
        "middle_keyframes": InbetweenMiddleKeyframe.execute(first, 1, 1.0).args[0],
        "keyframes": KeyframeChain(()).then(torch.cat([first, last]), 4, 1.0),
        "images": torch.cat([first, last, first, last]),
        "positive": positive,
        "negative": negative,
        "latent_image": latent,
        "settings": settings(),
    }


def good_values(node, connected) -> dict:
    import comfy.samplers

    values = {}
    for item in node.define_schema().inputs:
        if isinstance(item, WIDGETS):
            options = getattr(item, "options", None)
            values[item.id] = item.default if item.default is not None else options[0]
        elif isinstance(item, io.Sampler.Input):
            values[item.id] = comfy.samplers.sampler_object("euler")
        elif isinstance(item, io.MultiType.Input):
            # Of a chain frames_per_segment is not read.
            values[item.id] = torch.cat(pictures())
        # What need not be connected may count in place of widgets; Encode Keyframes needs a last keyframe all the same.
        elif not item.optional or item.id == "last_keyframe":
            values[item.id] = connected[item.id]
    return values


def by_the_host(node, **values):
    """As the host calls a node: through a locked clone of its class."""
    node.VALIDATE_CLASS()
    return make_locked_method_func(node, node.FUNCTION, node.PREPARE_CLASS_CLONE(None))(**values)


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_a_value_that_cannot_be_is_named(node, connected):
    values = good_values(node, connected)
    for item in (item for item in node.define_schema().inputs if isinstance(item, WIDGETS)):
        for wrong in [*wrong_values(item), *ANYTHING_ELSE]:
            # What files may be called is another matter.
            if node in LOADERS and isinstance(wrong, str) and item.id not in ("strength", "overwrite"):
                continue
            with pytest.raises(ValueError, match=f"^{item.id}: ") as error:
                node.execute(**{**values, item.id: wrong})
            message = str(error.value)
            message.encode()
            assert ", found " in message and message.endswith(".") and len(message) < 2500, message
        with pytest.raises(ValueError, match=f"^{item.id}: "):
            by_the_host(node, **{**values, item.id: None})


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_something_else_than_the_link_should_bring_is_named(node, connected):
    values = good_values(node, connected)
    for item in (item for item in node.define_schema().inputs if not isinstance(item, WIDGETS)):
        # What other packs call models and VAEs.
        others = [
            types.SimpleNamespace(model_options={}, model=None),
            types.SimpleNamespace(encode=len, decode=len, encode_image=len),
        ]
        for wrong in [*ANYTHING_ELSE, 3, True, *(others if item.get_io_type() in MODELS else [])]:
            with pytest.raises(ValueError, match=f"^{item.id}: expected .*, found ") as error:
                node.execute(**{**values, item.id: wrong})
            message = str(error.value)
            message.encode()
            assert message.endswith(".") and len(message) < 400, message


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_a_link_to_an_input_that_there_is_not_is_named(node, connected):
    with pytest.raises(ValueError, match=rf"^{node.__name__}: expected its inputs, .*, found 'unknown'\. Remove"):
        by_the_host(node, **good_values(node, connected), unknown=1)
    with pytest.raises(ValueError, match="Remove that link") as error:
        node.execute(**good_values(node, connected), **{SURROGATES: 1})
    message = str(error.value)
    message.encode()
    assert len(message) < 2500


def test_whole_numbers_may_come_as_floats_and_numpys_numbers(connected):
    whole = good_values(InbetweenEncodeKeyframes, connected) | {"width": 64, "height": 64, "frames": 4, "seed": 3}
    expected = InbetweenEncodeKeyframes.execute(**whole).args
    for kind in (float, np.float32, np.int64):
        values = {name: kind(value) if type(value) is int else value for name, value in whole.items()}
        positive, _, latent = by_the_host(InbetweenEncodeKeyframes, **values).args
        assert torch.equal(positive[0][1]["concat_latent_image"], expected[0][0][1]["concat_latent_image"])
        assert latent["samples"].shape == expected[2]["samples"].shape


def test_numpys_largest_seed_and_truth_are_taken():
    items = {item.id: item for item in InbetweenKeyframeSequence.define_schema().inputs}
    assert checked_value(items["seed"], np.uint64(2**64 - 1)) == 2**64 - 1
    assert checked_value(items["loop"], np.bool_(True)) is True


def test_sampler_takes_whole_floats_and_the_largest_seed(connected):
    values = {name: connected[name] for name in ("model", "positive", "negative", "latent_image")}
    floats = {**SETTINGS, "steps": 1.0, "reinjections": 0.0, "guidance_max": 3}
    (chosen,) = InbetweenSettings.execute("paper", **floats).args
    assert chosen == settings(steps=1) and type(chosen.sampler.steps) is int
    values |= {"preset": "paper", "denoise": 1, "settings": chosen}
    result, again = (
        InbetweenDualDirectionKSampler.execute(**values, seed=seed).args[0]["samples"]
        for seed in (2**64 - 1, np.uint64(2**64 - 1))
    )
    assert torch.equal(result, again) and result.isfinite().all()


@pytest.mark.parametrize("denoise", [1e-9, 1e-300, 5e-324])
@pytest.mark.parametrize("scheduler", ["karras", "align_your_steps"])
def test_denoise_that_asks_for_a_run_without_end_is_named(connected, denoise, scheduler):
    values = good_values(InbetweenDualDirectionKSampler, connected) | {"denoise": denoise}
    values["settings"] = settings(scheduler=scheduler, steps=50)
    with pytest.raises(ValueError, match=r"^denoise: expected 0, or at least .*, found .*\. Raise it"):
        InbetweenDualDirectionKSampler.execute(**values)


@pytest.mark.parametrize("text", ["1000000000", "9" * 5000, "25, x", "-3", ""])
def test_frames_of_a_segment_that_cannot_be_are_named(connected, text):
    values = good_values(InbetweenKeyframeSequence, connected) | {"frames_per_segment": text}
    with pytest.raises(ValueError, match=r"^frames_per_segment: expected .*found") as error:
        InbetweenKeyframeSequence.execute(**values)
    assert len(str(error.value)) < 300
