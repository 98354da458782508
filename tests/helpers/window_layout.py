"""Where the nodes of an open graph lie in ComfyUI's window, in each of its styles of nodes.

Newer windows can draw nodes as HTML, which makes most of them taller.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from playwright.sync_api import Page

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
        if (!drawn) return round(node.boundingRect ?? node._bounding);
        return round([(drawn.x - canvas.x) / scale - offset[0], (drawn.y - canvas.y) / scale - offset[1],
                      drawn.width / scale, drawn.height / scale]);
    };
    return {nodes: app.graph.nodes.map(node => [node.title, node.type, box(node)]),
            groups: app.graph.groups.map(group => [group.title, round(group.boundingRect ?? group._bounding)])};
}"""


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
