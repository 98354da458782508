"""The blueprints agree with themselves and with the nodes; what holds for every graph is in test_workflows."""

import re

import pytest
from generative_inbetweening.tools.paths import PACK_NAME
from helpers.blueprints import INPUTS, OUTPUTS, PATHS, block, blueprint, subgraph

OUTSIDE = {
    "Generative Inbetweening": [
        "first keyframe",
        "last keyframe",
        "preset",
        "seed",
        "frames",
        "width",
        "height",
        "frames per second",
        "SVD model",
        "backward motion",
    ],
    "Keyframes to Video": [
        "keyframes",
        "loop",
        "preset",
        "seed",
        "width",
        "height",
        "frames per second",
        "SVD model",
        "backward motion",
    ],
}


@pytest.fixture(params=PATHS)
def name(request) -> str:
    return request.param


def nodes_of(name: str) -> dict[int, dict]:
    return {node["id"]: node for node in subgraph(name)["nodes"]}


def test_every_blueprint_is_tested():
    assert set(PATHS) == set(OUTSIDE)


def test_outside_is_what_matters_in_plain_words(name):
    assert [item["label"] for item in block(name)["inputs"]] == OUTSIDE[name]
    assert [(item["name"], item["type"]) for item in block(name)["outputs"]] == [
        ("video", "VIDEO"),
        ("images", "IMAGE"),
    ]


def test_block_shows_the_ends_of_its_subgraph(name):
    outer, inner = block(name), subgraph(name)
    assert outer["type"] == inner["id"] and outer["title"] == inner["name"] == name
    for side, keys in (("inputs", ("name", "label", "type")), ("outputs", ("name", "type"))):
        assert [[item[key] for key in keys] for item in outer[side]] == [
            [item[key] for key in keys] for item in inner[side]
        ]
    # One place for newer windows, one for older.
    assert inner["description"] == blueprint(name)["extra"]["BlueprintDescription"]


def test_inputs_outside_lead_to_inputs_of_their_kind_inside(name):
    links, nodes = {link["id"]: link for link in subgraph(name)["links"]}, nodes_of(name)
    for outer, inner in zip(block(name)["inputs"], subgraph(name)["inputs"], strict=True):
        (link,) = [links[each] for each in inner["linkIds"]]
        item = nodes[link["target_id"]]["inputs"][link["target_slot"]]
        assert item["name"] == outer["name"] and outer["type"] in item["type"].split(",")
        assert ("widget" in outer) == ("widget" in item)


def test_a_seed_changes_only_where_the_window_shows_it(name):
    """What a seed does after a run stands outside in some windows only."""
    assert not any("randomize" in node["widgets_values"] for node in subgraph(name)["nodes"])


def test_links_are_the_same_seen_from_both_ends(name):
    inner, nodes = subgraph(name), nodes_of(name)
    ids = [link["id"] for link in inner["links"]]
    assert len(set(ids)) == len(ids)
    for link in inner["links"]:
        start, end = link["origin_id"], link["target_id"]
        output = (
            inner["inputs"][link["origin_slot"]] if start == INPUTS else nodes[start]["outputs"][link["origin_slot"]]
        )
        assert link["id"] in (output["linkIds"] if start == INPUTS else output["links"])
        if end == OUTPUTS:
            assert inner["outputs"][link["target_slot"]]["linkIds"] == [link["id"]]
        else:
            assert nodes[end]["inputs"][link["target_slot"]]["link"] == link["id"]
        assert link["type"] == output["type"]
    linked = [item["link"] for node in nodes.values() for item in node["inputs"] if item["link"] is not None]
    assert sorted(linked + [link["id"] for link in inner["links"] if link["target_id"] == OUTPUTS]) == sorted(ids)
    assert inner["state"]["lastNodeId"] == max(nodes) and inner["state"]["lastLinkId"] == max(ids)


def test_places_of_inputs_and_outputs_cover_no_node(name):
    inner = subgraph(name)
    left = min(node["pos"][0] for node in inner["nodes"])
    right = max(node["pos"][0] + node["size"][0] for node in inner["nodes"])
    x, _, width, _ = inner["inputNode"]["bounding"]
    assert x + width < left and inner["outputNode"]["bounding"][0] > right


def test_description_names_the_files_and_where_they_go(name):
    values = {value for node in subgraph(name)["nodes"] for value in node["widgets_values"] if isinstance(value, str)}
    files = re.findall(r"(\w+\.safetensors) in models/(\w+)", subgraph(name)["description"])
    assert dict(files) == {"svd_xt.safetensors": "checkpoints", "svd_backward_motion.safetensors": "backward_motion"}
    assert {file for file, _ in files} <= values


def test_server_lists_them_and_has_their_nodes(server, name):
    _, listed = server.ask("GET", "/global_subgraphs")
    entries = {
        each["name"]: key for key, each in listed.items() if each["info"]["node_pack"] == f"custom_nodes.{PACK_NAME}"
    }
    assert entries.keys() == PATHS.keys()
    status, entry = server.ask("GET", f"/global_subgraphs/{entries[name]}")
    assert status == 200 and entry["data"] == PATHS[name].read_text(encoding="utf-8")
    _, known = server.ask("GET", "/object_info")
    for node in [node for node in subgraph(name)["nodes"] if node["type"] != "MarkdownNote"]:
        inputs = known[node["type"]]["input"]
        named = {**inputs["required"], **inputs.get("optional", {})}
        assert {item["name"] for item in node["inputs"]} <= named.keys()
        linked = {item["name"] for item in node["inputs"] if item["link"] is not None or "widget" in item}
        # Newer hosts have given some of their nodes more widgets.
        assert {
            key for key, value in inputs["required"].items() if len(value) < 2 or "default" not in value[1]
        } <= linked
        assert [item["type"] for item in node["outputs"]] == known[node["type"]]["output"]
