"""What counts and what does not is to be seen in the window: grey widgets, and a seed that stays."""

import json

import pytest
from helpers.server import ROOT
from helpers.window import has_new_style, load, new_style

GREY = """([type, name]) => app.graph.nodes.find(node => node.type === type).widgets.find(
    widget => widget.name === name).disabled === true"""
FRESH = """type => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    return Object.fromEntries(node.widgets.map(widget => [widget.name, widget.value]));
}"""
UNLINK = """() => {
    const node = app.graph.nodes.find(node => node.type === 'InbetweenKeyframeSequence');
    node.disconnectInput(node.inputs.findIndex(input => input.name === 'keyframes'));
}"""


@pytest.mark.parametrize(("workflow", "chain"), [("keyframe_sequence", True), ("seamless_loop", False)])
def test_frames_for_a_batch_are_grey_beside_a_chain(window, workflow, chain):
    load(window, json.loads((ROOT / "workflows" / f"{workflow}.json").read_text(encoding="utf-8")))
    asked = ["InbetweenKeyframeSequence", "frames_per_segment"]
    assert window.evaluate(GREY, asked) is chain
    window.evaluate(UNLINK)
    assert window.evaluate(GREY, asked) is False


def test_a_new_encode_keyframes_keeps_its_seed(window):
    load(window, {"nodes": [], "links": [], "version": 0.4})
    assert window.evaluate(FRESH, "InbetweenEncodeKeyframes")["control_after_generate"] == "fixed"
    if has_new_style(window):
        with new_style(window):
            assert window.evaluate(FRESH, "InbetweenEncodeKeyframes")["control_after_generate"] == "fixed"
