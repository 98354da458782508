"""Graphs of the repository's history open in the window with every value where it belongs today, run, and are saved so.

Since they were saved the sampler's and the sequence's settings have moved to a node of their own, and some have other
names.
"""

import json
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from helpers.old_graphs import GRAPHS, HELD_SETTINGS, SETTINGS, changed, in_a_subgraph, old_api, old_graph, today
from helpers.window import RUN, SECONDS, UNKNOWN, api_form, has_new_style, load, new_style, with_values

PRESET = """value => {
    const widget = app.graph.nodes.find(node => node.type === 'InbetweenSettings').widgets.find(
        widget => widget.name === 'preset');
    widget.value = value;
    widget.callback(value, app.canvas, app.graph.nodes.find(node => node.type === 'InbetweenSettings'));
}"""
IS_GREY = """type => app.graph.nodes.find(node => node.type === type).widgets.find(
    widget => widget.name === 'preset').disabled === true"""


@pytest.fixture(params=["classic", "new"])
def style(request, window) -> Iterator[str]:
    if request.param == "new" and not has_new_style(window):
        pytest.skip("this window has no new style of nodes")
    with new_style(window) if request.param == "new" else nullcontext():
        yield request.param


def of_kind(window, *kinds: str) -> list[dict]:
    """The inputs of each node of these kinds, as the window sends them to the server."""
    return [node["inputs"] for node in api_form(window).values() if node["class_type"] in kinds]


def values_of(inputs: dict) -> dict:
    return {name: value for name, value in inputs.items() if not isinstance(value, list)}


def check(window, name: str) -> None:
    """Every old value has arrived; nothing else is there that was not."""
    (inputs,) = of_kind(window, *HELD_SETTINGS)
    kept, moved = today(name)
    assert values_of(inputs) == kept
    settings = of_kind(window, SETTINGS)
    assert [values_of(each) for each in settings] == ([moved] if moved else [])
    assert bool(settings) == ("settings" in inputs)
    assert window.evaluate(UNKNOWN) == []


@pytest.mark.parametrize("name", GRAPHS)
def test_every_value_arrives(window, style, name):
    notes = []
    window.on("console", lambda message: notes.append(message.text))
    load(window, changed(old_graph(name)))
    window.wait_for_timeout(0.5 * SECONDS)
    check(window, name)
    assert any("of a node of their own" in note or "its preset counts" in note for note in notes)
    # Saved and opened again it is the same.
    before = api_form(window)
    saved = json.loads(window.evaluate("() => JSON.stringify(app.graph.serialize())"))
    assert "order_of_work" not in json.dumps(saved) and '"custom"' not in json.dumps(saved)
    load(window, saved)
    assert api_form(window) == before


@pytest.mark.parametrize("name", GRAPHS)
def test_they_run(window, name):
    values = {
        node["_meta"]["title"]: {key: value for key, value in node["inputs"].items() if not isinstance(value, list)}
        for node in old_api(name).values()
    }
    for each in values.values():
        each.update({key: value for key, value in (("steps", 2), ("reinjections", 0)) if key in each})
    load(window, with_values(window, old_graph(name), values))
    kind, details = window.evaluate(RUN)
    assert kind == "execution_success", details


@pytest.mark.parametrize("name", GRAPHS)
def test_their_api_form_opens_with_every_value(window, name):
    # What ran before would be shown on nodes of the same ids.
    window.evaluate("() => { app.nodeOutputs = {}; }")
    window.evaluate("([workflow, name]) => app.loadApiJson(workflow, name)", [changed(old_api(name)), name])
    window.wait_for_timeout(0.5 * SECONDS)
    check(window, name)


@pytest.mark.parametrize("name", ["keyframe_sequence", "training_free"])
def test_every_value_arrives_in_a_subgraph(window, style, name):
    load(window, in_a_subgraph(changed(old_graph(name))))
    window.wait_for_timeout(0.5 * SECONDS)
    check(window, name)


def test_a_preset_fills_the_widgets_and_is_grey_where_it_does_not_count(window, style):
    load(window, changed(old_graph("generative_inbetweening")))
    assert window.evaluate(IS_GREY, "InbetweenDualDirectionKSampler")
    window.evaluate(PRESET, "training-free")
    (inputs,) = of_kind(window, SETTINGS)
    expected = {
        "preset": "training-free",
        "strategy": "endpoint-correction",
        "steps": 14,
        "fusion": "weighted",
        "sampler_name": "euler_ancestral",
        "scheduler": "align_your_steps",
        "reinjections": 0,
        "temporal_attention": "own",
        "guidance_min": 1,
        "guidance_max": 3,
        "guidance_start": 0,
        "guidance_end": 1,
        "reinjection_share": 0.5,
    }
    assert {name: inputs[name] for name in expected} == expected
    # Of no preset, so it stays.
    assert inputs["videos_per_call"] == "2"
