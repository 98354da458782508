"""Graphs of the repository's history, from when the sampler and the sequence held their settings."""

import copy
import json
from pathlib import Path

from comfy_api.latest import io
from generative_inbetweening.nodes import NODES
from generative_inbetweening.sampler.settings import PRESETS

FOLDER = Path(__file__).resolve().parents[1] / "data" / "old_graphs"
GRAPHS = sorted(path.stem for path in FOLDER.glob("*.json"))
SETTINGS = "InbetweenSettings"
HELD_SETTINGS = ("InbetweenDualDirectionKSampler", "InbetweenKeyframeSequence")
CONTROL = "control_after_generate"
# Unlike every default and every preset, by the names that they had.
_MOVED = {
    "steps": 3,
    "guidance_min": 1.2,
    "guidance_max": 2.8,
    "fusion": "weighted",
    "sampler_name": "lms",
    "scheduler": "exponential",
    "reinjections": 1,
    "reinjection_share": 0.75,
    "strategy": "time reversal",
    "temporal_attention": "own",
    "order_of_work": "paired",
    "videos_per_call": "2",
    "guidance_start": 0.25,
    "guidance_end": 0.75,
}
_KEPT = {
    "seed": 9,
    "denoise": 0.75,
    "frames_per_segment": "5",
    "loop": True,
    "width": 128,
    "height": 72,
    "fps": 6,
    "motion_bucket": 99,
    "noise_augmentation": 0.25,
    "fit": "pad",
    "subdivisions": 1,
    "resume": False,
    CONTROL: "increment",
}


def old_graph(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def old_api(name: str) -> dict:
    return json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))


def names_of(node: dict) -> list[str]:
    """What stands in a saved node's `widgets_values`."""
    names = [item["name"] for item in node["inputs"] if "widget" in item]
    if len(node["widgets_values"]) > len(names):
        names.insert(names.index("seed") + 1, CONTROL)
    return names


def changed(graph: dict) -> dict:
    """The graph, in either form, with another value in every old input of the sampler or sequence but the preset."""
    graph, values = copy.deepcopy(graph), {**_MOVED, **_KEPT}
    if "nodes" not in graph:
        for node in graph.values():
            if node["class_type"] in HELD_SETTINGS:
                node["inputs"].update({name: values[name] for name in node["inputs"] if name in values})
        return graph
    for node in graph["nodes"]:
        if node["type"] in HELD_SETTINGS:
            old = zip(names_of(node), node["widgets_values"], strict=True)
            node["widgets_values"] = [values.get(name, value) for name, value in old]
    return graph


def today(name: str) -> tuple[dict, dict]:
    """(values of the sampler or sequence, values of its settings node) for the changed graph as it runs today."""
    (node,) = [node for node in old_graph(name)["nodes"] if node["type"] in HELD_SETTINGS]
    old = dict(zip(names_of(node), node["widgets_values"], strict=True))
    kept = {**new_inputs(node["type"]), **{key: value for key, value in _KEPT.items() if key in old}}
    kept.pop(CONTROL, None)
    preset = old.get("preset", "custom")
    if preset != "custom":
        # Its settings counted; how many videos go through the model at once was never one of them.
        return {**kept, "preset": preset}, {"preset": preset, **PRESETS[preset], "videos_per_call": "2"}
    moved = {key: value for key, value in _MOVED.items() if key in old}
    moved.pop("order_of_work", None)
    renamed = {"strategy": "time-reversal", "videos_per_call": "2"}
    return {**kept, "preset": "paper"}, {**PRESETS["paper"], **moved, **renamed, "preset": "paper"}


def new_inputs(kind: str) -> dict:
    """What the sampler or sequence has today and did not have in the first graphs: {widget: its default}."""
    schema = next(node for node in NODES if node.__name__ == kind).define_schema()
    return {item.id: item.default for item in schema.inputs if isinstance(item, io.WidgetInput) and item.optional}


def in_a_subgraph(
    graph: dict, kinds: tuple[str, ...] = HELD_SETTINGS, shown: tuple[str, ...] = ("seed", "steps", "strategy")
) -> dict:
    """The graph's nodes as a subgraph, some widgets of its only node of these kinds shown outside it."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    (sampler,) = [node for node in graph["nodes"] if node["type"] in kinds]
    subgraph = {
        "id": "6f2a7a52-1c52-4c1c-8d0a-2f9d1c9f0b11",
        "version": 1,
        "revision": 0,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": graph["last_node_id"],
            "lastLinkId": graph["last_link_id"],
            "lastRerouteId": 0,
        },
        "config": {},
        "name": "Inbetweening",
        "inputNode": {"id": -10, "bounding": [-600, 0, 120, 60]},
        "outputNode": {"id": -20, "bounding": [3000, 0, 120, 60]},
        "inputs": [],
        "outputs": [],
        "widgets": [],
        "nodes": graph["nodes"],
        "groups": [],
        "links": [dict(zip(names, link, strict=True)) for link in graph["links"]],
        "extra": {},
    }
    outside = {
        "id": 1,
        "type": subgraph["id"],
        "pos": [0, 0],
        "size": [300, 200],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {"proxyWidgets": [[str(sampler["id"]), name] for name in shown]},
        "widgets_values": [],
    }
    return {
        **{key: graph[key] for key in ("config", "extra", "version")},
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [outside],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [subgraph]},
    }


def shown_by_links(graph: dict, values: dict) -> dict:
    """A graph of `in_a_subgraph` whose widgets stand outside by links, as newer windows save it, with these values."""
    (outside,), (subgraph,) = graph["nodes"], graph["definitions"]["subgraphs"]
    for (node, name), value in zip(outside["properties"].pop("proxyWidgets"), values.values(), strict=True):
        (inner,) = [each for each in subgraph["nodes"] if each["id"] == int(node)]
        (slot,) = [slot for slot, item in enumerate(inner["inputs"]) if item["name"] == name]
        item, place = inner["inputs"][slot], len(subgraph["inputs"])
        link, identity = subgraph["state"]["lastLinkId"] + 1, f"00000000-0000-4000-8000-00000000000{place}"
        item["link"] = subgraph["state"]["lastLinkId"] = link
        ends = {"origin_id": -10, "origin_slot": place, "target_id": inner["id"], "target_slot": slot}
        subgraph["links"].append({"id": link, **ends, "type": item["type"]})
        subgraph["inputs"].append({"id": identity, "name": name, "type": item["type"], "linkIds": [link]})
        outside["inputs"].append({"name": name, "type": item["type"], "widget": {"name": name}, "link": None})
        outside["widgets_values"].append(value)
    return graph
