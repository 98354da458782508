"""The shipped graphs in ComfyUI's own window, in a headless Chromium: opened, checked, run, looked at.

Screenshots go to the folder that INBETWEEN_SCREENSHOTS names, if it names one. Its `.jpg` files are the pictures beside
the shipped graphs.
"""

import json
import os

import pytest
from generative_inbetweening.tools.paths import PACK_NAME
from helpers.server import SMALL, api_workflow
from helpers.window import (
    MISSING,
    RUN,
    SAMPLING,
    SECONDS,
    SHOW,
    SMALLER,
    TITLE_BAR,
    VIDEO,
    WORKFLOWS,
    api_form,
    check_layout,
    demo_values,
    essentials,
    for_the_demo,
    load,
    nothing_covers,
    photograph,
    shipped,
    side_panel,
    without_ids,
)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_opens_runs_and_shows_its_result(window, screenshots, name):
    load(window, for_the_demo(window, name))
    assert window.evaluate(MISSING) == []
    assert window.get_by_role("dialog").count() == 0
    if name in SAMPLING:
        assert without_ids(api_form(window)) == without_ids(api_workflow(name))
    size = [[values["width"], values["height"]] for values in demo_values(name).values() if "width" in values]
    if size and not os.environ.get("INBETWEEN_SCREENSHOTS"):
        # A quarter of the demo's work; only the pictures show how its pictures look.
        window.evaluate(SMALLER, SMALL)
        size = [[SMALL, SMALL]]
    kind, details = window.evaluate(RUN)
    assert kind == "execution_success", details
    assert window.evaluate("() => app.graph.nodes.filter(node => node.has_errors).length") == 0
    node = {"convert_backward_motion": "PreviewAny"}.get(name, "SaveVideo")
    (output,) = window.evaluate(
        "type => app.graph.nodes.filter(node => node.type === type).map(node => app.nodeOutputs[node.id])", node
    )
    if name in SAMPLING:
        window.wait_for_function(f"({VIDEO})().length > 0")
        ((source, *shown),) = window.evaluate(VIDEO)
        assert output["images"][0]["filename"] in source
        assert [shown] == size
    else:
        assert output["text"] == ["svd_backward_motion.safetensors"]
    photograph(window, screenshots / f"{name}.jpg")
    check_layout(window)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_opening_and_saving_changes_nothing(window, name):
    graph = shipped(window, name)
    load(window, graph)
    saved = json.loads(window.evaluate("() => JSON.stringify(app.graph.serialize())"))
    assert essentials(saved) == essentials(graph)


@pytest.mark.parametrize("name", SAMPLING)
def test_api_form_opens_as_a_graph(window, name):
    window.evaluate("([workflow, name]) => app.loadApiJson(workflow, name)", [api_workflow(name), name])
    window.wait_for_timeout(0.5 * SECONDS)
    assert window.evaluate(MISSING) == []
    assert without_ids(api_form(window)) == without_ids(api_workflow(name))


def test_help_page_opens_beside_the_graph(window, screenshots):
    load(window, for_the_demo(window, "generative_inbetweening"))
    window.evaluate(SHOW)
    window.mouse.click(*window.evaluate(TITLE_BAR, "InbetweenDualDirectionKSampler"))
    window.get_by_test_id("info-button").first.click()
    page = window.get_by_role("heading", name="How long it takes")
    page.wait_for()
    window.screenshot(path=screenshots / "help_page.png")


@pytest.mark.parametrize(
    ("name", "file"),
    [*((name, "svd_xt.safetensors") for name in SAMPLING), ("convert_backward_motion", "svd.safetensors")],
)
def test_missing_models_are_offered(window, screenshots, name, file):
    load(window, shipped(window, name))
    dialog, notice = window.get_by_role("dialog").last, window.get_by_role("button", name="View details")
    dialog.or_(notice).wait_for()
    if notice.is_visible():
        # Newer windows mark the loaders instead of opening a dialog; beside the graph they list the files.
        marked = {"convert_backward_motion": "InbetweenConvertBackwardMotion"}.get(name, "InbetweenLoadSVD")
        assert marked in window.evaluate(MISSING)
        notice.click()
        side_panel(window).get_by_role("button", name=f"Download {file}").wait_for()
    else:
        assert file in dialog.inner_text()
    window.screenshot(path=screenshots / f"missing_models_{name}.png")
    nothing_covers(window)
    check_layout(window)


def test_template_dialog_lists_the_workflows(window, screenshots):
    assert set(WORKFLOWS) <= set(window.request.get("/workflow_templates").json()[PACK_NAME])
    for name in WORKFLOWS:
        assert window.request.get(f"/api/workflow_templates/{PACK_NAME}/{name}.jpg").ok
    window.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = window.get_by_role("dialog").last
    dialog.get_by_text(PACK_NAME).first.click()
    for name in WORKFLOWS:
        dialog.get_by_text(name, exact=True).first.wait_for()
    window.wait_for_timeout(1 * SECONDS)
    window.screenshot(path=screenshots / "templates.png")
