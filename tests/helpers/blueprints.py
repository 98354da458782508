"""The blueprints: blocks of the node library, each a file with one node outside and a subgraph of others inside."""

import json
from pathlib import Path

PATHS = {path.stem: path for path in sorted((Path(__file__).resolve().parents[2] / "subgraphs").glob("*.json"))}
# Outside: ends of links in the subgraph that stand for the block's inputs and outputs.
INPUTS, OUTPUTS = -10, -20
EMPTY = {"nodes": [], "links": [], "groups": [], "version": 0.4, "last_node_id": 0, "last_link_id": 0}


def blueprint(name: str) -> dict:
    return json.loads(PATHS[name].read_text(encoding="utf-8"))


def block(name: str) -> dict:
    """The node outside."""
    (node,) = blueprint(name)["nodes"]
    return node


def subgraph(name: str) -> dict:
    (definition,) = blueprint(name)["definitions"]["subgraphs"]
    return definition


def inside(name: str) -> dict:
    """What is in the block as a graph of its own, without what leads outside."""
    definition = subgraph(name)
    links = [link for link in definition["links"] if min(link["origin_id"], link["target_id"]) > 0]
    ids = {link["id"] for link in links}
    for node in definition["nodes"]:
        for item in node["inputs"]:
            item["link"] = item["link"] if item["link"] in ids else None
        for item in node["outputs"]:
            item["links"] = [link for link in item["links"] or [] if link in ids]
    parts = {key: definition[key] for key in ("nodes", "groups")}
    return {**EMPTY, **parts, "links": [list(link.values()) for link in links]}
