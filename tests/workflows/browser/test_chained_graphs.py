"""The workflows with an upscaler or frame interpolation behind them, in ComfyUI's own window.

A node that the running host lacks is shown to the window as published (tests/data), so that its graph can be opened and
looked at. The upscaler's graph is run.
"""

import json
from collections.abc import Iterator

import pytest
import safetensors.torch
from helpers.chained_graphs import COMMON, NAMES, doubling_upscaler, graph_of
from helpers.server import ROOT, Server, inputs_of, small_workflow
from helpers.window import MISSING, RUN, SECONDS, UNKNOWN, VIDEO, check_layout, essentials, load, photograph
from playwright.sync_api import Page

PUBLISHED = json.loads((ROOT / "tests" / "data" / "object_info_interpolation.json").read_text(encoding="utf-8"))
# The widgets are made from a node's inputs as the server describes them.
REGISTER = """async published => {
    for (const [name, info] of Object.entries(published))
        if (!LiteGraph.registered_node_types[name])
            await app.registerNodeDef(name, {name, description: '', category: 'test', output_node: false,
                output_is_list: info.output.map(() => false), ...info});
}"""

# Without them a node made here looks like any other.
BADGES = """async mode => {
    const setting = app.extensionManager.setting, name = 'Comfy.NodeBadge.NodeSourceBadgeMode';
    const before = setting.get(name);
    await setting.set(name, mode);
    return before;
}"""


def with_demo_values(graph: dict) -> dict:
    """The graph with the demo's settings, fewer pixels, and the tests' upscaler in its widgets."""
    demo = {node["class_type"]: node["inputs"] for node in small_workflow("generative_inbetweening").values()}
    wanted = {name: demo[name] for name in COMMON} | {"UpscaleModelLoader": {"model_name": "doubling.safetensors"}}
    for node in graph["nodes"]:
        widgets = [item["name"] for item in node["inputs"] if "widget" in item]
        if "seed" in widgets:
            widgets.insert(widgets.index("seed") + 1, "control_after_generate")
        for index, widget in enumerate(widgets):
            fallback = "fixed" if widget == "control_after_generate" else node["widgets_values"][index]
            node["widgets_values"][index] = wanted.get(node["type"], {}).get(widget, fallback)
    return graph


def close_dialog(window: Page) -> None:
    """The list of missing models, where there is one."""
    window.wait_for_timeout(0.5 * SECONDS)
    if window.get_by_role("dialog").count():
        window.keyboard.press("Escape")
        window.get_by_role("dialog").wait_for(state="detached")


@pytest.fixture(params=NAMES)
def name(request, server: Server, window: Page) -> Iterator[str]:
    # The second is never read: its name is what the graph holds.
    for folder, file in (("upscale_models", "doubling"), ("frame_interpolation", "film_net_fp16")):
        (server.base / "models" / folder).mkdir(exist_ok=True)
        safetensors.torch.save_file(doubling_upscaler(), server.base / "models" / folder / f"{file}.safetensors")
    window.evaluate("async () => { await app.refreshComboInNodes(); }")
    window.evaluate(REGISTER, PUBLISHED)
    badges = window.evaluate(BADGES, "None")
    yield request.param
    window.evaluate(BADGES, badges)


def test_opening_and_saving_changes_nothing(window, name):
    graph = graph_of(name)
    load(window, graph)
    # Its models are not there, which newer windows mark.
    assert window.evaluate(UNKNOWN) == []
    assert essentials(json.loads(window.evaluate("() => JSON.stringify(app.graph.serialize())"))) == essentials(graph)


def test_it_looks_and_runs_as_shipped(window, screenshots, name):
    load(window, with_demo_values(graph_of(name)))
    close_dialog(window)
    assert window.evaluate(MISSING) == []
    if name == "inbetween_upscale":
        kind, details = window.evaluate(RUN)
        assert kind == "execution_success", details
        window.wait_for_function(f"({VIDEO})().length > 0")
        size = inputs_of(small_workflow("generative_inbetweening"), "InbetweenEncodeKeyframes")
        ((_, *shown),) = window.evaluate(VIDEO)
        assert shown == [2 * size["width"], 2 * size["height"]]
    photograph(window, screenshots / f"{name}.jpg")
    check_layout(window)
