"""Graphs that were saved with old names of inputs and choices run as they did, and say so."""

import json

import pytest
import torch
from generative_inbetweening.nodes import NODES, InbetweenDualDirectionGuider
from generative_inbetweening.nodes.old_names import OLD_NAMES, with_new_names
from generative_inbetweening.tools.run_workflow import WorkflowFailed
from helpers.server import Server, inputs_of, node_of, small_workflow
from helpers.small_model import SETTINGS, settings

GUIDER = "InbetweenDualDirectionGuider"


def combos(node) -> dict[str, list[str]]:
    return {item.id: item.options for item in node.define_schema().inputs if hasattr(item, "options")}


def test_old_names_lead_to_names_that_there_are_and_are_none_of_them():
    nodes = {node.__name__: node for node in NODES}
    for change in OLD_NAMES.values():
        for choices in (combos(nodes[name]) for name in change["nodes"]):
            assert set(change["inputs"].values()) <= set(choices) and not set(change["inputs"]) & set(choices)
            for name, values in change["values"].items():
                assert set(values.values()) <= set(choices[name]) and not set(values) & set(choices[name])


def with_old_names(strategy: str, order: str | None) -> dict:
    """A short graph as it was saved before; its latents are saved by node `latents`."""
    workflow = small_workflow("generative_inbetweening_advanced")
    for kind in ("VAEDecode", "CreateVideo", "SaveVideo"):
        del workflow[node_of(workflow, kind)]
    inputs_of(workflow, "BasicScheduler")["steps"] = 2
    # The alternating strategies take the plain sampler.
    inputs_of(workflow, "SamplerCustomAdvanced")["sampler"] = [node_of(workflow, "KSamplerSelect"), 0]
    inputs = inputs_of(workflow, GUIDER)
    inputs["strategy"] = strategy
    del inputs["videos_per_call"]
    if order is not None:
        inputs["order_of_work"] = order
    workflow["latents"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": [node_of(workflow, "SamplerCustomAdvanced"), 0], "filename_prefix": "latents"},
    }
    return workflow


def latents(server: Server, workflow: dict) -> torch.Tensor:
    return server.latents(server.run(server.fresh(workflow)), "latents")


@pytest.mark.parametrize(
    ("strategy", "order", "new_strategy", "videos"),
    [
        ("dual-direction", "auto", "dual-direction", "auto"),
        ("time reversal", "batched", "time-reversal", "4"),
        ("motion prior distillation", "paired", "endpoint-correction", "2"),
        ("sequential", "sequential", "alternating", "1"),
        ("sequential with backward motion", "auto", "alternating-backward-motion", "auto"),
    ],
)
def test_graph_with_old_names_gives_the_video_of_the_new_ones(server, strategy, order, new_strategy, videos):
    old = with_old_names(strategy, order)
    new = with_old_names(new_strategy, None)
    inputs_of(new, GUIDER)["videos_per_call"] = videos
    said = len(server.log())
    assert torch.equal(latents(server, old), latents(server, new))
    notes = server.log()[said:]
    assert "the input order_of_work is now called videos_per_call" in notes
    assert (f"strategy '{strategy}' is now called '{new_strategy}'" in notes) == (strategy != new_strategy)
    assert (f"videos_per_call '{order}' is now called '{videos}'" in notes) == (order != videos)


@pytest.mark.parametrize(
    ("strategy", "order", "words"),
    [
        ("both", "auto", "strategy: .*both"),
        ("time  reversal", "auto", "strategy: .*time  reversal"),
        ("dual-direction", "all", "videos_per_call: .*all"),
        ("batched", "auto", "strategy: .*batched"),
    ],
)
def test_names_that_never_were_are_refused(server, strategy, order, words):
    with pytest.raises(WorkflowFailed, match=words):
        server.run(with_old_names(strategy, order))


def test_missing_input_is_still_missing(server):
    workflow = with_old_names("dual-direction", None)
    status, answer = server.refusal(workflow)
    (error,) = answer["node_errors"][node_of(workflow, GUIDER)]["errors"]
    assert status == 400 and error["type"] == "required_input_missing" and error["details"] == "videos_per_call"


def test_new_name_counts_where_both_are():
    prompt = {"1": {"class_type": GUIDER, "inputs": {"order_of_work": "batched", "videos_per_call": "1"}}}
    assert with_new_names(prompt)["1"]["inputs"] == {"videos_per_call": "1"}


@pytest.mark.parametrize("value", [2, ["3", 0]])
def test_an_input_that_is_gone_is_left_out(caplog, value):
    inputs = {"frames_per_segment": "8", "guiding_frames": value}
    prompt = {"1": {"class_type": "InbetweenKeyframeSequence", "inputs": inputs}}
    assert with_new_names(prompt)["1"]["inputs"] == {"frames_per_segment": "8"}
    assert "there is no input guiding_frames any more" in caplog.text and "guiding_frames" in inputs


def test_other_nodes_and_what_is_no_node_stay_as_they_are():
    prompt = {
        "1": {"class_type": "KSampler", "inputs": {"order_of_work": "batched", "strategy": "sequential"}},
        "2": {"class_type": GUIDER, "inputs": {"strategy": ["1", 0], "fusion": "sequential", "videos_per_call": []}},
        "3": {"class_type": GUIDER},
        "4": {"class_type": ["sequential"], "inputs": {"strategy": "sequential"}},
        "5": None,
    }
    before = json.dumps(prompt)
    assert with_new_names(prompt) == json.loads(before) and json.dumps(prompt) == before


def test_an_old_name_that_comes_by_a_link_counts(models, encoded, caplog):
    new = settings(strategy="endpoint-correction", videos_per_call="1")
    caplog.clear()
    assert settings(strategy="motion prior distillation", videos_per_call="sequential") == new
    assert "strategy 'motion prior distillation' is now called 'endpoint-correction'" in caplog.text
    with pytest.raises(ValueError, match="strategy: expected one of .*found 'motion'"):
        settings(strategy="motion")
    names = ("guidance_min", "guidance_max", "fusion", "temporal_attention")
    chosen = {name: SETTINGS[name] for name in names}
    (guider,) = InbetweenDualDirectionGuider.execute(
        models[0], *encoded[:2], strategy="motion prior distillation", videos_per_call="sequential", **chosen
    ).args
    assert guider.settings == new.guider
