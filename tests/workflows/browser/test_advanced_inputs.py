"""Advanced inputs are folded away in both styles of nodes, can be shown, and keep their values and their places."""

import json

import pytest
from generative_inbetweening.nodes.sequence import InbetweenKeyframeSequence
from helpers.window import SECONDS, api_form, has_new_style, load, new_style

SEQUENCE = "InbetweenKeyframeSequence"
INPUTS = [item for item in InbetweenKeyframeSequence.GET_SCHEMA().inputs if "default" in item.as_dict()]
ADVANCED = [item.id for item in INPUTS if item.as_dict().get("advanced")]
PLAIN = [item.id for item in INPUTS if item.id not in ADVANCED]
# A node is drawn before its height is right.
NEW_NODE = """async type => {
    app.graph.clear();
    const node = LiteGraph.createNode(type);
    node.pos = [100, 100];
    app.graph.add(node);
    await new Promise(resolve => setTimeout(resolve, 500));
}"""
BUTTON = "show_advanced_inputs"
LOOK = """() => {
    const [node] = app.graph.nodes.slice(-1);
    const shown = node.widgets.filter(widget => node.isWidgetVisible(widget) && widget.type !== "button");
    return {
        shown: shown.map(({name}) => name),
        button: node.widgets.find(widget => widget.type === "button").label,
        room: node.size[1] - node.computeSize()[1],
        below: node.size[1] - Math.max(...node.widgets.map(({y, computedHeight}) => y + computedHeight)),
    };
}"""
ON_SCREEN = """name => {
    const [node] = app.graph.nodes.slice(-1), {ds} = app.canvas;
    const {scale, offset} = Object.assign(ds, {scale: 1, offset: [300, 100]});
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const widget = node.widgets.find(widget => widget.name === name);
    return [canvas.x + (node.pos[0] + node.size[0] / 2 + offset[0]) * scale,
            canvas.y + (node.pos[1] + widget.y + widget.computedHeight / 2 + offset[1]) * scale];
}"""
LINK = """name => {
    const [node] = app.graph.nodes.slice(-1), slot = node.inputs.findIndex(input => input.name === name);
    if (node.inputs[slot].link != null) return node.disconnectInput(slot);
    const source = LiteGraph.createNode("PrimitiveInt") ?? LiteGraph.createNode("PrimitiveNode");
    source.pos = [-400, 100];
    app.graph.add(source);
    app.graph._nodes.push(...app.graph._nodes.splice(app.graph._nodes.indexOf(node), 1));
    source.connect(0, node, slot);
}"""


def look(window) -> dict:
    window.wait_for_timeout(0.5 * SECONDS)
    return window.evaluate(LOOK)


def check(window, shown: list[str]) -> None:
    """These widgets are in sight, and the node is neither cut off nor longer than it needs to be."""
    found = look(window)
    assert found["shown"] == shown
    assert found["room"] == 0 and 0 <= found["below"] < 20


def press_the_button(window) -> None:
    window.mouse.click(*window.evaluate(ON_SCREEN, BUTTON))
    window.wait_for_timeout(0.5 * SECONDS)


def saved(window) -> dict:
    return json.loads(window.evaluate("() => JSON.stringify(app.graph.serialize())"))


def with_value(graph: dict, name: str, value: object) -> dict:
    (node,) = graph["nodes"]
    node["widgets_values"][[item.id for item in INPUTS].index(name)] = value
    node.pop("widgets_values_named", None)
    return graph


@pytest.fixture
def sequence(window):
    """The window with a new Keyframe Sequence."""
    window.evaluate(NEW_NODE, SEQUENCE)
    return window


def test_few_widgets_are_in_sight_until_the_button_is_pressed(sequence):
    assert len(PLAIN) <= 10
    check(sequence, PLAIN)
    press_the_button(sequence)
    check(sequence, [item.id for item in INPUTS])
    assert look(sequence)["button"] == "Hide advanced inputs"
    press_the_button(sequence)
    check(sequence, PLAIN)
    assert look(sequence)["button"] == "Show advanced inputs"


def test_values_are_saved_at_their_places_and_sent_without_the_button(sequence):
    (node,) = saved(sequence)["nodes"]
    defaults = {item.id: item.as_dict()["default"] for item in INPUTS}
    assert node["widgets_values"] == list(defaults.values())
    (sent,) = api_form(sequence).values()
    assert {name: sent["inputs"].get(name) for name in defaults} == defaults and BUTTON not in sent["inputs"]


@pytest.mark.parametrize("shown", [True, False])
def test_state_is_kept_in_a_saved_graph(sequence, shown):
    press_the_button(sequence)
    if not shown:
        press_the_button(sequence)
    load(sequence, with_value(saved(sequence), "noise_augmentation", 0.1))
    check(sequence, PLAIN + ADVANCED if shown else PLAIN)
    assert look(sequence)["button"] == ("Hide advanced inputs" if shown else "Show advanced inputs (1 changed)")


def test_a_graph_with_a_changed_value_opens_with_it_in_sight(sequence):
    graph = saved(sequence)
    assert "showAdvanced" not in graph["nodes"][0]
    load(sequence, graph)
    check(sequence, PLAIN)
    load(sequence, with_value(graph, "noise_augmentation", 0.1))
    check(sequence, PLAIN + ADVANCED)


def test_values_of_a_preset_are_no_changed_ones(window):
    window.evaluate(NEW_NODE, "InbetweenSettings")
    assert len(look(window)["shown"]) <= 10
    window.evaluate("""() => {
        const [preset] = app.graph.nodes[0].widgets;
        preset.value = "training-free";
        preset.callback(preset.value);
    }""")
    assert look(window)["button"] == "Show advanced inputs"
    load(window, saved(window))
    assert len(look(window)["shown"]) <= 10


def test_a_linked_input_stays_in_sight(sequence):
    sequence.evaluate(LINK, "subdivisions")
    check(sequence, [*PLAIN, "subdivisions"])
    load(sequence, saved(sequence))
    check(sequence, [*PLAIN, "subdivisions"])
    sequence.evaluate(LINK, "subdivisions")
    check(sequence, PLAIN)


def test_a_subgraph_shows_what_it_is_given(window):
    """Its outside has an advanced input in its own row, and no button."""
    window.evaluate(NEW_NODE, "InbetweenSettings")
    window.evaluate("() => { app.graph.convertToSubgraph(new Set(app.graph.nodes)); }")
    graph = saved(window)
    (outside,), (inside,) = graph["nodes"], graph["definitions"]["subgraphs"][0]["nodes"]
    outside.setdefault("properties", {})["proxyWidgets"] = [
        [str(inside["id"]), name] for name in ("steps", "noise_ratio", "strategy")
    ]
    load(window, graph)
    window.wait_for_timeout(0.5 * SECONDS)
    rows = window.evaluate("() => app.graph.nodes[0].widgets.map(({y}) => y)")
    assert len(rows) == 3 and rows[1] - rows[0] == rows[2] - rows[1] > 0


def test_both_styles_fold_and_share_the_state(sequence):
    if not has_new_style(sequence):
        pytest.skip("this window has no new style of nodes")
    node = sequence.locator("[data-node-id]")
    with new_style(sequence):
        node.get_by_text("preset", exact=True).wait_for()
        assert node.get_by_text("noise_augmentation", exact=True).count() == 0
        node.get_by_role("button", name="Show advanced inputs").click()
        node.get_by_text("noise_augmentation", exact=True).wait_for()
        assert node.get_by_text(BUTTON).count() == 0
    assert look(sequence)["shown"] == PLAIN + ADVANCED
    press_the_button(sequence)
    with new_style(sequence):
        node.get_by_text("preset", exact=True).wait_for()
        assert node.get_by_text("noise_augmentation", exact=True).count() == 0
