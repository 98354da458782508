"""A graph that was saved with old names opens in the window with the new ones, runs, and is saved with them."""

import copy
import json
from contextlib import nullcontext

import pytest
from helpers.old_graphs import in_a_subgraph, shown_by_links
from helpers.server import SMALL
from helpers.window import MISSING, RUN, SECONDS, SMALLER, api_form, for_the_demo, has_new_style, load, new_style

GUIDER = "InbetweenDualDirectionGuider"
OLD = {"videos_per_call": "order_of_work"}


def as_it_was_saved(graph: dict, strategy: str, order: str) -> dict:
    """The graph with the guider's old input name and old values, which stand at their widgets' positions."""
    graph = copy.deepcopy(graph)
    (node,) = [node for node in graph["nodes"] if node["type"] == GUIDER]
    names = [item["name"] for item in node["inputs"] if "widget" in item]
    for name, value in (("strategy", strategy), ("videos_per_call", order)):
        node["widgets_values"][names.index(name)] = value
    for item in node["inputs"]:
        name = OLD.get(item["name"], item["name"])
        item["name"] = item["localized_name"] = name
        if "widget" in item:
            item["widget"]["name"] = name
    return graph


def widgets(window) -> dict:
    return window.evaluate(
        """type => Object.fromEntries(app.graph.nodes.find(node => node.type === type).widgets
            .map(widget => [widget.name, widget.value]))""",
        GUIDER,
    )


@pytest.mark.parametrize("style", ["classic", "new"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("motion prior distillation", "paired"), ("endpoint-correction", "2")),
        (("time reversal", "batched"), ("time-reversal", "4")),
    ],
)
def test_graph_with_old_names_opens_runs_and_is_saved_with_the_new_ones(window, style, old, new):
    if style == "new" and not has_new_style(window):
        pytest.skip("this window has no new style of nodes")
    notes = []
    window.on("console", lambda message: notes.append(message.text))
    with new_style(window) if style == "new" else nullcontext():
        load(window, as_it_was_saved(for_the_demo(window, "generative_inbetweening_advanced"), *old))
        window.wait_for_timeout(1 * SECONDS)
        assert window.evaluate(MISSING) == []
        shown = widgets(window)
        assert (shown["strategy"], shown["videos_per_call"]) == new
        assert (shown["guidance_max"], shown["guidance_end"]) == (3, 1)
        if style == "new":
            node = window.locator("[data-node-id]").filter(has_text="Dual-Direction Guider")
            assert node.get_by_text(new[0], exact=True).count() == 1
        (inputs,) = [node["inputs"] for node in api_form(window).values() if node["class_type"] == GUIDER]
        assert (inputs["strategy"], inputs["videos_per_call"]) == new and "order_of_work" not in inputs
        saved = json.loads(window.evaluate("() => JSON.stringify(app.graph.serialize())"))
        (node,) = [node for node in saved["nodes"] if node["type"] == GUIDER]
        assert set(new) <= set(node["widgets_values"]) and not set(old) & set(node["widgets_values"])
        assert "order_of_work" not in json.dumps(saved)
        for value in old:
            assert any(value in note and "is now called" in note for note in notes)
        window.evaluate(SMALLER, SMALL)
        kind, details = window.evaluate(RUN)
        assert kind == "execution_success", details


@pytest.mark.parametrize("by_links", [False, True])
def test_old_names_are_new_outside_a_subgraph_too(window, by_links):
    old = {"strategy": "time reversal", "order_of_work": "batched"}
    graph = as_it_was_saved(for_the_demo(window, "generative_inbetweening_advanced"), *old.values())
    graph = in_a_subgraph(graph, (GUIDER,), tuple(old))
    load(window, shown_by_links(graph, old) if by_links else graph)
    window.wait_for_timeout(0.5 * SECONDS)
    shown = window.evaluate("() => app.graph.nodes[0].widgets.map(widget => widget.value)")
    assert shown == ["time-reversal", "4"]
    (inputs,) = [node["inputs"] for node in api_form(window).values() if node["class_type"] == GUIDER]
    assert (inputs["strategy"], inputs["videos_per_call"]) == ("time-reversal", "4")
