"""Graphs in API form from when the sampler and the sequence held their settings run as they did."""

import copy
import json

import pytest
import torch
from generative_inbetweening.nodes import NODES
from generative_inbetweening.nodes.old_graphs import up_to_date, with_settings_nodes
from generative_inbetweening.sampler.settings import PRESETS
from generative_inbetweening.tools.run_workflow import WorkflowFailed
from helpers.old_graphs import GRAPHS, HELD_SETTINGS, SETTINGS, changed, new_inputs, old_api, today
from helpers.server import node_of
from helpers.small_model import sample

SAMPLER, SEQUENCE = HELD_SETTINGS


def of_kind(workflow: dict, *kinds: str) -> list[dict]:
    return [node["inputs"] for node in workflow.values() if node["class_type"] in kinds]


def values_of(inputs: dict) -> dict:
    return {name: value for name, value in inputs.items() if not isinstance(value, list)}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_value_arrives(name):
    old = changed(old_api(name))
    before = json.dumps(old)
    new = up_to_date(old)
    assert json.dumps(old) == before and up_to_date(new) == new
    (inputs,) = of_kind(new, *HELD_SETTINGS)
    kept, moved = today(name)
    # What a graph leaves out is what the nodes take in its place.
    assert values_of(inputs) == {key: value for key, value in kept.items() if key in values_of(inputs)}
    (kind,) = [node["class_type"] for node in new.values() if node["class_type"] in HELD_SETTINGS]
    assert set(kept) - set(values_of(inputs)) <= set(new_inputs(kind))
    (settings,) = of_kind(new, SETTINGS)
    assert values_of(settings) == {key: value for key, value in moved.items() if key in settings}
    # What is left out is the preset's.
    left_out = {key: value for key, value in moved.items() if key not in settings}
    assert left_out.items() <= PRESETS[settings["preset"]].items()
    assert new[inputs["settings"][0]]["inputs"] is settings and inputs["settings"][1] == 0


@pytest.mark.parametrize("name", GRAPHS)
def test_they_run(server, name):
    workflow = old_api(name)
    for content in workflow.values():
        for setting, value in (("steps", 2), ("reinjections", 0)):
            if setting in content["inputs"]:
                content["inputs"][setting] = value
    said = len(server.log())
    assert server.run(server.fresh(workflow)).file(node_of(workflow, "SaveVideo"))["filename"]
    words = "its preset counts" if name == "training_free_by_preset" else "of a node of their own, InbetweenSettings"
    assert words in server.log()[said:]


def test_the_video_is_that_of_the_old_values(models, encoded):
    """By the nodes themselves, as the host would call them."""
    old = {"1": {"class_type": SAMPLER, "inputs": {"seed": 1, "denoise": 1.0, "steps": 1, "order_of_work": "paired"}}}
    old["1"]["inputs"] |= {"fusion": "weighted", "guidance_max": 2.0, "strategy": "time reversal", "reinjections": 0}
    new = up_to_date(old)
    nodes = {node.__name__: node for node in NODES}
    (settings,) = nodes[SETTINGS].execute(**of_kind(new, SETTINGS)[0]).args
    values = values_of(new["1"]["inputs"])
    (found,) = nodes[SAMPLER].execute(models[0], *encoded, **values, settings=settings).args
    wanted = {"fusion": "weighted", "guidance_max": 2.0, "strategy": "time-reversal", "videos_per_call": "2"}
    assert torch.equal(found["samples"], sample(models[0], encoded, steps=1, **wanted))


def one(kind: str, **inputs) -> dict:
    return {"7": {"class_type": kind, "inputs": inputs}}


def test_links_move_with_the_values():
    new = up_to_date(one(SAMPLER, model=["1", 0], steps=["2", 0], order_of_work=["3", 1], preset="custom"))
    added = new["7"]["inputs"]["settings"][0]
    assert new[added]["inputs"] == {"preset": "paper", "steps": ["2", 0], "videos_per_call": ["3", 1]}
    assert new["7"]["inputs"] == {"model": ["1", 0], "preset": "paper", "settings": [added, 0]}


@pytest.mark.parametrize("videos", ["auto", "2"])
def test_a_preset_counts_as_it_did(videos):
    new = up_to_date(one(SEQUENCE, steps=33, preset="fast", videos_per_call=videos))
    inputs = new["7"]["inputs"]
    assert inputs["preset"] == "fast" and "steps" not in inputs
    settings = of_kind(new, SETTINGS)
    assert settings == ([] if videos == "auto" else [{"preset": "fast", "videos_per_call": "2"}])


def test_a_preset_that_comes_by_a_link_stays_one(models, encoded):
    assert up_to_date(one(SAMPLER, steps=33, preset=["2", 0]))["7"]["inputs"] == {"preset": ["2", 0]}


def test_connected_settings_count_in_place_of_old_ones():
    new = up_to_date(one(SAMPLER, steps=33, preset="custom", settings=["2", 0]))
    assert new == one(SAMPLER, preset="paper", settings=["2", 0])


def test_each_node_gets_settings_of_its_own_under_a_free_id():
    prompt = {str(number): {"class_type": SAMPLER, "inputs": {"steps": number}} for number in (4, 5, 6)}
    prompt["12:3"] = {"class_type": SEQUENCE, "inputs": {"steps": 7}}
    new = with_settings_nodes(prompt)
    assert len(new) == 8
    for node, content in prompt.items():
        assert new[new[node]["inputs"]["settings"][0]]["inputs"] == {"preset": "paper", **content["inputs"]}


def test_other_nodes_and_what_is_no_node_stay_as_they_are():
    prompt = {
        "1": {"class_type": "KSampler", "inputs": {"steps": 3}},
        "2": {"class_type": "InbetweenDualDirectionGuider", "inputs": {"strategy": "alternating"}},
        "3": {"class_type": SAMPLER},
        "4": {"class_type": [SAMPLER], "inputs": {"steps": 3}},
        "5": None,
        "6": {"class_type": SAMPLER, "inputs": {"preset": "custom", "seed": 3}},
    }
    before = copy.deepcopy(prompt)
    assert with_settings_nodes(prompt) == before == prompt


def test_a_value_that_cannot_be_is_named_on_the_settings_node(server):
    workflow = old_api("generative_inbetweening")
    workflow[node_of(workflow, SAMPLER)]["inputs"]["steps"] = 0
    status, answer = server.refusal(workflow)
    ((problems),) = answer["node_errors"].values()
    assert status == 400 and problems["class_type"] == SETTINGS
    assert problems["errors"][0]["extra_info"]["input_name"] == "steps"
    with pytest.raises(WorkflowFailed, match="strategy: .*both"):
        workflow = old_api("generative_inbetweening")
        workflow[node_of(workflow, SAMPLER)]["inputs"]["strategy"] = "both"
        server.run(workflow)
