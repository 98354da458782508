"""ComfyUI's window in a browser: loading, running and saving graphs, and where their nodes lie in each of its styles.

Newer windows can draw nodes as HTML, which makes most of them taller.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from generative_inbetweening.tools.paths import PACK_NAME
from playwright.sync_api import Locator, Page

from helpers.server import BASE_UNET, FINE_TUNED_UNET, api_workflow

SAMPLING = [
    "generative_inbetweening",
    "middle_keyframe",
    "generative_inbetweening_advanced",
    "training_free",
    "keyframe_sequence",
    "seamless_loop",
]
WORKFLOWS = [*SAMPLING, "convert_backward_motion"]
SEEDS = ("seed", "noise_seed")
# What newer hosts gave to their own nodes, with its default.
NEWER_INPUTS = {("CreateVideo", "bit_depth"): 8, ("SaveVideo", "format.codec"): "auto"}
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
SMALLER = """side => {
    for (const widget of app.graph.nodes.flatMap(node => node.widgets ?? []))
        if (['width', 'height'].includes(widget.name)) widget.value = side;
}"""
TITLE_BAR = """type => {
    const node = app.graph.nodes.find(node => node.type === type);
    const {scale, offset} = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
    return [canvas.x + (node.pos[0] + 120 + offset[0]) * scale, canvas.y + (node.pos[1] - 15 + offset[1]) * scale];
}"""
VIDEO = """() => [...document.querySelectorAll('video')].filter(video => video.videoWidth > 0)
    .map(video => [video.currentSrc, video.videoWidth, video.videoHeight])"""
# The first window whose new style keeps the places that a graph gives to its nodes.
NEW_STYLE_SINCE = (1, 45)
NEW_STYLE = "Comfy.VueNodes.Enabled"
VERSION = "() => window.__COMFYUI_FRONTEND_VERSION__ ?? '0.0'"
SET = "([name, value]) => app.extensionManager.setting.set(name, value)"
DRAWN = """() => app.graph.nodes.every(node => document.querySelector(`[data-node-id="${node.id}"]`))"""
# As they are drawn, in the graph's own units; the title bar is part of a node.
BOXES = """() => {
    const {scale, offset} = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
    const round = ([left, top, width, height]) => [left, top, left + width, top + height].map(Math.round);
    const box = node => {
        const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
        // What the canvas remembers of a node is old until it is drawn again.
        if (!drawn) return round([node.pos[0], node.pos[1] - LiteGraph.NODE_TITLE_HEIGHT, node.size[0],
                                  node.size[1] + LiteGraph.NODE_TITLE_HEIGHT]);
        return round([(drawn.x - canvas.x) / scale - offset[0], (drawn.y - canvas.y) / scale - offset[1],
                      drawn.width / scale, drawn.height / scale]);
    };
    return {nodes: app.graph.nodes.map(node => [node.title, node.type, box(node)]),
            groups: app.graph.groups.map(group => [group.title, round(group.boundingRect ?? group._bounding)])};
}"""


def side_panel(window: Page) -> Locator:
    return window.get_by_test_id("properties-panel")


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
    return with_values(window, shipped(window, name), demo_values(name))


def with_values(window: Page, graph: dict, values: dict[str, dict]) -> dict:
    """A graph with these values in its widgets, which are named by the node's title; seeds stay as they are."""
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


@dataclass
class Box:
    """A node or a group in the graph's units."""

    name: str
    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: "Box") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: "Box") -> bool:
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


def faults(nodes: list[tuple[Box, bool]], groups: list[Box]) -> list[str]:
    """What is wrong: nodes that overlap, nodes not in exactly one group. A node with False, a note, needs no group."""
    found = [f"{a} overlaps {b}" for index, (a, _) in enumerate(nodes) for b, _ in nodes[index + 1 :] if a.overlaps(b)]
    for node, needs_group in nodes:
        around = [group for group in groups if group.overlaps(node)]
        if needs_group and not (len(around) == 1 and around[0].holds(node)):
            found.append(f"{node} is not inside one of {around}")
        elif not needs_group and around:
            found.append(f"{node} lies on {around}")
    found += [f"{a} overlaps {b}" for index, a in enumerate(groups) for b in groups[index + 1 :] if a.overlaps(b)]
    return found


def measured(window: Page) -> dict:
    """The boxes, once they stay where they are."""
    before = None
    for _ in range(40):
        found = window.evaluate(BOXES)
        if found == before:
            break
        before = found
        window.wait_for_timeout(250)
    return found


def layout_faults(window: Page) -> list[str]:
    """The faults of the open graph as it is drawn now."""
    found = measured(window)
    return faults(
        [(Box(title, *box), kind != "MarkdownNote") for title, kind, box in found["nodes"]],
        [Box(title, *box) for title, box in found["groups"]],
    )


def has_new_style(window: Page) -> bool:
    numbers = window.evaluate(VERSION).split(".")[:2]
    return tuple(map(int, numbers)) >= NEW_STYLE_SINCE


@contextmanager
def new_style(window: Page) -> Iterator[None]:
    """The window draws nodes in its new style."""
    window.evaluate(SET, [NEW_STYLE, True])
    try:
        window.wait_for_function(DRAWN)
        yield
    finally:
        window.evaluate(SET, [NEW_STYLE, False])
        window.wait_for_function("() => !document.querySelector('[data-node-id]')")


def check_layout(window: Page) -> None:
    """No node overlaps another and each is in one group, in every style that the window has."""
    found = layout_faults(window)
    if has_new_style(window):
        with new_style(window):
            found += [f"new style: {fault}" for fault in layout_faults(window)]
    assert not found, "\n".join(found)
