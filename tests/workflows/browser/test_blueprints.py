"""The blueprints in ComfyUI's own window: taken out of the node library as a user does, connected, run, looked at."""

from contextlib import nullcontext

import pytest
from helpers.blueprints import EMPTY, PATHS, blueprint, inside, subgraph
from helpers.window import (
    MISSING,
    RUN,
    SECONDS,
    SHOW,
    VIDEO,
    check_layout,
    has_new_style,
    load,
    measured,
    new_style,
    nothing_covers,
    photograph,
    side_panel,
)
from playwright.sync_api import Page

# The block: the node whose type is a subgraph's id.
BLOCK = "app.graph.nodes.find(node => node.isSubgraphNode?.())"
# What stands before the block for the demo's two pictures, and the values that it gets.
PICTURES = {
    "Generative Inbetweening": [["LoadImage", "first.png"], ["LoadImage", "last.png"]],
    "Keyframes to Video": [["InbetweenKeyframe", "first.png"], ["InbetweenKeyframe", "last.png"]],
}
DEMO = {
    "preset": "fast",
    "seed": 5,
    "frames": 8,
    "width": 64,
    "height": 64,
}
FILES = {
    "model_name": ("svd_xt.safetensors", "demo_svd.safetensors"),
    "backward_motion": ("svd_backward_motion.safetensors", "demo_backward_motion.safetensors"),
}
# Pictures into Keyframe nodes, these in a chain, and the chain or the pictures into the block; its video into a file.
CONNECT = f"""pictures => {{
    const block = {BLOCK}, [x, y] = block.pos;
    const make = (type, place) => {{
        const node = LiteGraph.createNode(type);
        node.pos = place;
        app.graph.add(node);
        return node;
    }};
    let chain = null;
    pictures.forEach(([type, file], index) => {{
        const image = make('LoadImage', [x - (type === 'LoadImage' ? 450 : 900), y + 460 * index]);
        image.widgets.find(widget => widget.name === 'image').value = file;
        if (type === 'LoadImage') return image.connect(0, block, index);
        const keyframe = make(type, [x - 450, y + 460 * index]), slot = name => keyframe.findInputSlot(name);
        keyframe.widgets.find(widget => widget.name === 'frames').value = 8;
        image.connect(0, keyframe, slot('image'));
        chain?.connect(0, keyframe, slot('keyframes'));
        chain = keyframe;
    }});
    chain?.connect(0, block, 0);
    block.connect(0, make('SaveVideo', [x + 500, y]), 0);
}}"""
WIDGETS = f"""() => Object.fromEntries({BLOCK}.widgets.map(
    widget => [widget.name, widget.value]))"""
SET_WIDGETS = f"""values => {{
    for (const widget of {BLOCK}.widgets) {{
        const value = values[widget.name];
        if (value !== undefined) widget.value = value;
    }}
}}"""


def take_out(window: Page, name: str) -> None:
    """The block alone, from the node library by hand."""
    load(window, EMPTY)
    library = window.locator(".node-library-tab-button")
    library.click()
    window.get_by_placeholder("Search").last.fill(name)
    window.get_by_text(name, exact=True).last.click()
    window.wait_for_timeout(0.5 * SECONDS)
    if not window.evaluate("() => app.graph.nodes.length"):
        # Newer windows hang it on the pointer.
        window.mouse.move(1200, 500)
        window.mouse.click(1200, 500)
    window.wait_for_function(f"() => {BLOCK}")
    library.click()


def choose_files(window: Page) -> None:
    """The demo's models, by hand where the window marks the files that it lacks: that takes the marks away."""
    if not has_new_style(window):
        window.evaluate(SET_WIDGETS, {name: chosen for name, (_, chosen) in FILES.items()})
        return
    with new_style(window):
        window.evaluate(SHOW)
        for shipped, chosen in FILES.values():
            window.locator("[data-node-id]").get_by_text(shipped, exact=True).click()
            window.get_by_text(chosen, exact=True).last.click()
    assert window.evaluate(MISSING) == []


@pytest.mark.parametrize("name", PATHS)
def test_block_from_the_node_library_makes_a_video(window, screenshots, name):
    take_out(window, name)
    shown = window.evaluate(WIDGETS)
    outside = [item["name"] for item in subgraph(name)["inputs"]]
    assert set(outside[1 if "keyframes" in outside else 2 :]) == shown.keys()
    assert shown["preset"] == "paper" and (shown["width"], shown["height"]) == (1024, 576)
    assert {key: shown[key] for key in FILES} == {key: shipped for key, (shipped, _) in FILES.items()}
    choose_files(window)
    window.evaluate(CONNECT, PICTURES[name])
    window.evaluate(SET_WIDGETS, DEMO)
    kind, details = window.evaluate(RUN)
    assert kind == "execution_success", details
    window.wait_for_function(f"({VIDEO})().length > 0")
    ((_, *size),) = window.evaluate(VIDEO)
    assert size == [64, 64]
    for style in ("classic", "new"):
        if style == "classic" or has_new_style(window):
            with new_style(window) if style == "new" else nullcontext():
                measured(window)
                photograph(window, screenshots / f"{name} {style}.jpg")


@pytest.mark.parametrize("name", PATHS)
def test_nodes_in_the_block_have_room(window, screenshots, name):
    load(window, inside(name))
    nothing_covers(window)
    photograph(window, screenshots / f"{name} inside.jpg")
    check_layout(window)


@pytest.mark.parametrize("name", PATHS)
def test_missing_models_of_a_saved_block_are_offered(window, screenshots, name):
    load(window, blueprint(name))
    dialog, notice = window.get_by_role("dialog").last, window.get_by_role("button", name="View details")
    dialog.or_(notice).wait_for()
    if notice.is_visible():
        assert window.evaluate(MISSING) == [subgraph(name)["id"]]
        notice.click()
        side_panel(window).get_by_role("button", name="Download svd_xt.safetensors").wait_for()
    else:
        assert "svd_xt.safetensors" in dialog.inner_text()
    window.screenshot(path=screenshots / f"{name} missing.png")
