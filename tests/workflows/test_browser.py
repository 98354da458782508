"""The shipped graphs in ComfyUI's own window, in a headless Chromium: opened, checked, run, looked at.

Screenshots go to the folder that INBETWEEN_SCREENSHOTS names, if it names one. Its `.jpg` files are the pictures beside
the shipped graphs.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from generative_inbetweening.tools.chromium import find_chromium
from generative_inbetweening.tools.places import PACK_NAME
from helpers.comfyui_server import BASE_UNET, FINE_TUNED_UNET, ROOT, Server, api_workflow
from helpers.window_layout import check_layout
from playwright.sync_api import Locator, Page, sync_playwright

pytest_plugins = ["helpers.server_fixture"]

SAMPLING = [
    "generative_inbetweening",
    "generative_inbetweening_advanced",
    "training_free",
    "keyframe_sequence",
    "seamless_loop",
]
WORKFLOWS = [*SAMPLING, "convert_backward_motion"]
SEEDS = ("seed", "noise_seed")
# What newer hosts gave to their own nodes, with its default.
NEWER_INPUTS = {("CreateVideo", "bit_depth"): 8, ("SaveVideo", "format.codec"): "auto"}
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
]
SECONDS = 1000

READY = """() => window.app && app.graph && app.extensionManager
    && Object.keys(LiteGraph.registered_node_types).length > 100"""
UNKNOWN = """() => app.graph.nodes.filter(node => !LiteGraph.registered_node_types[node.type]).map(node => node.type)"""
# Newer windows say it of nodes that lack a file, too.
MISSING = """() => app.graph.nodes.filter(node => node.has_errors || !LiteGraph.registered_node_types[node.type])
    .map(node => node.type)"""
# In 0.3.75 queuePrompt's own answer is false although the prompt runs, so the server's word counts.
RUN = """async () => {
    const ended = new Promise(resolve => {
        for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
            app.api.addEventListener(kind, event => resolve([kind, event.detail]), {once: true});
    });
    await app.queuePrompt(0, 1);
    if (app.lastNodeErrors && Object.keys(app.lastNodeErrors).length) return ['refused', app.lastNodeErrors];
    return await ended;
}"""
# The graph fills the window, nothing is selected; the answer is where it lies on the screen.
SHOW = """async () => {
    const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));
    app.canvas.selectItems([...app.graph.nodes, ...app.graph.groups]);
    app.canvas.fitViewToSelectionAnimated({duration: 1});
    await pause(300);
    app.canvas.deselectAll();
    app.canvas.setDirty(true, true);
    await pause(1500);
    const boxes = [...app.graph.nodes, ...app.graph.groups].map(item => item.boundingRect ?? item._bounding);
    const {scale, offset} = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
    const left = Math.min(...boxes.map(b => b[0])), top = Math.min(...boxes.map(b => b[1]));
    const right = Math.max(...boxes.map(b => b[0] + b[2])), bottom = Math.max(...boxes.map(b => b[1] + b[3]));
    return {x: canvas.x + (left + offset[0]) * scale - 12, y: canvas.y + (top + offset[1]) * scale - 12,
            width: (right - left) * scale + 24, height: (bottom - top) * scale + 24};
}"""
TITLE_BAR = """type => {
    const node = app.graph.nodes.find(node => node.type === type);
    const {scale, offset} = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
    return [canvas.x + (node.pos[0] + 120 + offset[0]) * scale, canvas.y + (node.pos[1] - 15 + offset[1]) * scale];
}"""
VIDEO = """() => [...document.querySelectorAll('video')].filter(video => video.videoWidth > 0)
    .map(video => [video.currentSrc, video.videoWidth, video.videoHeight])"""


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("INBETWEEN_SCREENSHOTS")
    folder = ROOT / named if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def window(server: Server) -> Iterator[Page]:
    """ComfyUI's window, ready, with nothing in front of the graph."""
    chromium = find_chromium()
    if chromium is None:
        words = "no Chromium here; install one or name it in INBETWEEN_CHROMIUM"
        pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 2400, "height": 1100}, base_url=server.url)
        page.set_default_timeout(120 * SECONDS)
        page.add_init_script('localStorage.vueNodesBannerDismissed = "true"')
        page.request.post(
            "/settings",
            data={"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False},
        )
        page.goto("/")
        page.wait_for_function(READY)
        page.wait_for_timeout(1 * SECONDS)
        yield page
        browser.close()


def side_panel(window: Page) -> Locator:
    return window.get_by_test_id("properties-panel")


@pytest.fixture(autouse=True)
def nothing_in_front(window: Page) -> Iterator[None]:
    yield
    nothing_covers(window)


def nothing_covers(window: Page) -> None:
    """Closes what lies over the graph or beside it."""
    if side_panel(window).is_visible():
        window.get_by_role("button", name="Toggle properties panel").click()
    for _ in range(3):
        if not window.get_by_role("dialog").count():
            break
        window.keyboard.press("Escape")
        window.wait_for_timeout(0.5 * SECONDS)


def shipped(window: Page, name: str) -> dict:
    """A shipped graph, as the template dialog gets it."""
    answer = window.request.get(f"/api/workflow_templates/{PACK_NAME}/{name}.json")
    assert answer.ok
    return answer.json()


def demo_values(name: str) -> dict[str, dict]:
    """{title of a node: its values for the demo's models}."""
    if name not in SAMPLING:
        return {"Convert Backward Motion Weights": {"base": BASE_UNET, "fine_tuned": FINE_TUNED_UNET}}
    return {
        node["_meta"]["title"]: {key: value for key, value in node["inputs"].items() if not isinstance(value, list)}
        for node in api_workflow(name).values()
    }


def for_the_demo(window: Page, name: str) -> dict:
    """A shipped graph with the demo's files and settings in its widgets."""
    graph, values = shipped(window, name), demo_values(name)
    titles = window.evaluate(
        "types => types.map(type => LiteGraph.registered_node_types[type]?.title)",
        [node["type"] for node in graph["nodes"]],
    )
    for node, title in zip(graph["nodes"], titles):
        wanted = values.get(node.get("title", title), {})
        widgets = [item["name"] for item in node["inputs"] if "widget" in item]
        for seed in [widget for widget in widgets if widget in SEEDS]:
            # Some seeds have a widget beside them that changes them after a run.
            if len(node["widgets_values"]) > len(widgets):
                widgets.insert(widgets.index(seed) + 1, "control_after_generate")
        for index, widget in enumerate(widgets):
            # A fixed seed, so that the picture shows the one that was used.
            fallback = "fixed" if widget == "control_after_generate" else node["widgets_values"][index]
            node["widgets_values"][index] = wanted.get(widget, fallback)
    return graph


def load(window: Page, graph: dict) -> None:
    window.evaluate("async graph => { await app.loadGraphData(graph); }", graph)
    window.wait_for_timeout(0.5 * SECONDS)


def api_form(window: Page) -> dict:
    return window.evaluate("async () => (await app.graphToPrompt()).output")


def without_ids(workflow: dict) -> dict:
    """An API workflow by node titles and without newer inputs, so that two with different ids can be compared."""
    titles = {node: content["_meta"]["title"] for node, content in workflow.items()}
    assert len(set(titles.values())) == len(titles)
    return {
        titles[node]: (
            content["class_type"],
            {
                key: (titles[value[0]], value[1]) if isinstance(value, list) else value
                for key, value in content["inputs"].items()
                if (content["class_type"], key, value) not in [(*key, value) for key, value in NEWER_INPUTS.items()]
            },
        )
        for node, content in workflow.items()
    }


def essentials(graph: dict) -> dict:
    """What a graph says of nodes, links and groups, without newer inputs and the size of nodes that got such."""
    found = {
        "links": sorted(graph["links"]),
        "groups": [[group["title"], group["bounding"]] for group in graph["groups"]],
    }
    for node in graph["nodes"]:
        kind, values = node["type"], node.get("widgets_values", [])
        newer = {name: value for (of, name), value in NEWER_INPUTS.items() if of == kind}
        if newer:
            names = [item["name"] for item in node["inputs"] if "widget" in item]
            assert len(names) == len(values)
            values = [value for name, value in zip(names, values) if newer.get(name) != value]
        for model in node["properties"].get("models", []):
            # The window's remark where the host has no such folder, as ComfyUI 0.3.75 for frame interpolation.
            model.pop("directory_invalid", None)
        found[node["id"]] = [kind, node["pos"], None if newer else node["size"], node["properties"], values]
    return found


def photograph(window: Page, path: Path) -> None:
    window.screenshot(path=path, type="jpeg", quality=85, clip=window.evaluate(SHOW))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_opens_runs_and_shows_its_result(window, screenshots, name):
    load(window, for_the_demo(window, name))
    assert window.evaluate(MISSING) == []
    assert window.get_by_role("dialog").count() == 0
    if name in SAMPLING:
        assert without_ids(api_form(window)) == without_ids(api_workflow(name))
    kind, details = window.evaluate(RUN)
    assert kind == "execution_success", details
    assert window.evaluate("() => app.graph.nodes.filter(node => node.has_errors).length") == 0
    node = {"convert_backward_motion": "PreviewAny"}.get(name, "SaveVideo")
    (output,) = window.evaluate(
        "type => app.graph.nodes.filter(node => node.type === type).map(node => app.nodeOutputs[node.id])", node
    )
    if name in SAMPLING:
        (size,) = [values for values in demo_values(name).values() if "width" in values]
        window.wait_for_function(f"({VIDEO})().length > 0")
        ((source, *shown),) = window.evaluate(VIDEO)
        assert output["images"][0]["filename"] in source
        assert shown == [size["width"], size["height"]]
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
