"""The shipped graphs and help pages agree with the nodes; that the graphs run is for test_server and browser/."""

import json
import re
from pathlib import Path

import pytest
from comfy_api.latest import io
from generative_inbetweening.nodes import NODES
from generative_inbetweening.sampler.settings import PRESETS
from generative_inbetweening.weights.folders import register_backward_motion_folder
from helpers.blueprints import PATHS

register_backward_motion_folder()
ROOT = Path(__file__).resolve().parents[2]
HELP = ROOT / "web" / "docs"
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
API_WORKFLOWS = sorted((ROOT / "workflows" / "api").glob("*.json"))
SCHEMAS = {schema.node_id: schema for schema in (node.define_schema() for node in NODES)}
DISPLAY_NAMES = {
    "InbetweenLoadSVD": "Load SVD Model",
    "InbetweenLoadBackwardMotion": "Load Backward Motion Weights",
    "InbetweenConvertBackwardMotion": "Convert Backward Motion Weights",
    "InbetweenEncodeKeyframes": "Encode Keyframes",
    "InbetweenDualDirectionKSampler": "Dual-Direction KSampler",
    "InbetweenSettings": "Dual-Direction Settings",
    "InbetweenDualDirectionGuider": "Dual-Direction Guider",
    "InbetweenReinjectionSampler": "Noise Re-injection Sampler",
}
HUGGING_FACE = "https://huggingface.co"
FILES = {
    "svd_xt.safetensors": (
        "checkpoints",
        f"{HUGGING_FACE}/stabilityai/stable-video-diffusion-img2vid-xt/resolve/main/",
    ),
    "svd.safetensors": ("checkpoints", f"{HUGGING_FACE}/stabilityai/stable-video-diffusion-img2vid/resolve/main/"),
    "RealESRGAN_x4plus.safetensors": (
        "upscale_models",
        f"{HUGGING_FACE}/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/",
    ),
    "film_net_fp16.safetensors": (
        "frame_interpolation",
        f"{HUGGING_FACE}/Comfy-Org/frame_interpolation/resolve/main/frame_interpolation/",
    ),
}
# Nodes of neither this pack nor the host: the registry's name of their pack.
OTHER_PACKS = {"RIFE VFI": "comfyui-frame-interpolation"}


@pytest.fixture(params=[*WORKFLOWS, *PATHS.values()], ids=lambda path: path.stem)
def graph(request) -> dict:
    """A workflow, or what is in a blueprint."""
    found = json.loads(request.param.read_text(encoding="utf-8"))
    return found["definitions"]["subgraphs"][0] if "definitions" in found else found


def notes(graph: dict) -> str:
    return "\n".join(node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote")


def test_display_names_and_category():
    assert {name: SCHEMAS[name].display_name for name in DISPLAY_NAMES} == DISPLAY_NAMES
    assert {schema.category for schema in SCHEMAS.values()} == {"inbetweening"}


@pytest.mark.parametrize("node", SCHEMAS)
def test_every_input_and_output_has_a_tooltip(node):
    schema = SCHEMAS[node]
    assert schema.description
    for item in [*schema.inputs, *schema.outputs]:
        assert item.tooltip and item.tooltip.endswith("."), item.id


@pytest.mark.parametrize("node", SCHEMAS)
def test_every_node_has_a_help_page_that_names_its_inputs_and_outputs(node):
    schema = SCHEMAS[node]
    page = (HELP / f"{node}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {schema.display_name}\n")
    assert "## Common mistake" in page and "## How it connects" in page
    inputs, outputs = (re.search(rf"## {part}\n(.*?)\n## ", page, re.DOTALL)[1] for part in ("Inputs", "Outputs"))
    named = re.compile(r"^- \*\*`(\w+)`\*\*: ", re.MULTILINE)
    assert named.findall(inputs) == [item.id for item in schema.inputs]
    assert named.findall(outputs) == [item.display_name or item.get_io_type() for item in schema.outputs]


@pytest.mark.parametrize("node", SCHEMAS)
def test_picture_of_a_help_page_is_a_small_file_beside_it(node):
    assert f"]({node}.jpg)" in (HELP / f"{node}.md").read_text(encoding="utf-8")
    content = (HELP / f"{node}.jpg").read_bytes()
    assert content[:3] == b"\xff\xd8\xff" and len(content) < 150_000


def test_every_help_page_belongs_to_a_node():
    assert {path.stem for path in HELP.glob("*.md")} == set(SCHEMAS)


def test_every_api_workflow_has_a_graph():
    assert {path.stem for path in API_WORKFLOWS} < {path.stem for path in WORKFLOWS}


def test_every_graph_has_a_picture():
    for path in WORKFLOWS:
        assert path.with_suffix(".jpg").read_bytes()[:3] == b"\xff\xd8\xff", path.name


def test_every_node_says_where_it_comes_from(graph):
    for node in graph["nodes"]:
        if node["type"] in SCHEMAS:
            assert node["properties"]["cnr_id"] == "generative-inbetweening"
        elif node["type"] != "MarkdownNote":
            assert node["properties"]["cnr_id"] == OTHER_PACKS.get(node["type"], "comfy-core")


def test_widgets_are_those_of_the_nodes(graph):
    for node in graph["nodes"]:
        if node["type"] not in SCHEMAS:
            continue
        # In the graph a widget is an input, too, and a seed that changes by itself has a second widget beside it.
        widgets = [item["name"] for item in node["inputs"] if "widget" in item]
        sockets = [item["name"] for item in node["inputs"] if "widget" not in item]
        required_first = sorted(SCHEMAS[node["type"]].inputs, key=lambda item: item.optional)
        # A socket or a widget: what the window makes of an input's type.
        assert sockets == [item.id for item in required_first if not isinstance(item, io.WidgetInput)]
        assert widgets == [item.id for item in required_first if isinstance(item, io.WidgetInput)]
        assert len(node["widgets_values"]) == len(widgets) + sum(
            bool(getattr(item, "control_after_generate", False)) for item in SCHEMAS[node["type"]].inputs
        )
        assert [item["name"] for item in node["outputs"]] == [
            item.display_name or item.get_io_type() for item in SCHEMAS[node["type"]].outputs
        ]


def test_values_are_possible(graph):
    """Files aside, which are whose they are."""
    for node in graph["nodes"]:
        inputs = {item.id: item for item in getattr(SCHEMAS.get(node["type"]), "inputs", [])}
        names = [item["name"] for item in node["inputs"] if "widget" in item]
        if any(getattr(item, "control_after_generate", False) for item in inputs.values()):
            names.insert(names.index("seed") + 1, "control_after_generate")
        for name, value in zip(names, node["widgets_values"]):
            item = inputs.get(name)
            if isinstance(item, io.Combo.Input) and not str(value).endswith((".safetensors", "/")):
                assert value in item.options, (node["type"], name)
            elif isinstance(item, io.Int.Input | io.Float.Input):
                assert item.min <= value <= item.max, (node["type"], name)
            elif isinstance(item, io.Boolean.Input | io.String.Input):
                assert type(value) is type(item.default), (node["type"], name)


def test_settings_show_what_their_preset_says(graph):
    """Nothing in a shipped graph contradicts the choice that stands first."""
    for node in graph["nodes"]:
        if node["type"] == "InbetweenSettings":
            widgets = [item["name"] for item in node["inputs"] if "widget" in item]
            values = dict(zip(widgets, node["widgets_values"], strict=True))
            preset = values.pop("preset")
            assert values == {**PRESETS[preset], "videos_per_call": "auto"}


def test_few_widgets_are_in_sight():
    """Of the nodes that sample; the rest is asked for."""
    limits = {"InbetweenDualDirectionKSampler": 3, "InbetweenKeyframeSequence": 10, "InbetweenSettings": 10}
    for name, most in limits.items():
        shown = [
            item.id
            for item in SCHEMAS[name].inputs
            if isinstance(item, io.WidgetInput) and not item.as_dict().get("advanced")
        ]
        assert len(shown) <= most, shown


def test_missing_models_are_offered_and_named(graph):
    """What the UI offers to download is what the loaders' widgets name and what the note links to."""
    values = {value for node in graph["nodes"] for value in node.get("widgets_values", []) if isinstance(value, str)}
    offered = {model["name"]: model for node in graph["nodes"] for model in node["properties"].get("models", [])}
    assert offered and offered.keys() == values & FILES.keys()
    for name, model in offered.items():
        folder, site = FILES[name]
        assert (model["directory"], model["url"]) == (folder, f"{site}{name}?download=true")
        assert model["url"] in notes(graph)
    if any(value.startswith("svd_backward_motion") for value in values):
        assert "svd_backward_motion.safetensors" in notes(graph) and "backward_motion/" in notes(graph)


def boxes(graph: dict) -> list[tuple[str, float, float, float, float]]:
    """(title, left, top, right, bottom) of every node, its title bar included."""
    title_bar = 30
    return [
        (
            node.get("title", node["type"]),
            node["pos"][0],
            node["pos"][1] - title_bar,
            node["pos"][0] + node["size"][0],
            node["pos"][1] + node["size"][1],
        )
        for node in graph["nodes"]
    ]


def test_nodes_do_not_overlap(graph):
    found = boxes(graph)
    for index, (name, left, top, right, bottom) in enumerate(found):
        for other, other_left, other_top, other_right, other_bottom in found[index + 1 :]:
            apart = right <= other_left or other_right <= left or bottom <= other_top or other_bottom <= top
            assert apart, f"{name} and {other}"


def test_every_node_but_the_notes_is_in_one_titled_group(graph):
    assert all(group["title"] for group in graph["groups"])
    notes_count = sum(node["type"] == "MarkdownNote" for node in graph["nodes"])
    grouped = 0
    for _, left, top, right, bottom in boxes(graph):
        around = [
            group["title"]
            for group in graph["groups"]
            if group["bounding"][0] <= left
            and group["bounding"][1] <= top
            and right <= group["bounding"][0] + group["bounding"][2]
            and bottom <= group["bounding"][1] + group["bounding"][3]
        ]
        grouped += len(around)
    assert grouped == len(graph["nodes"]) - notes_count


PAGES = [
    *ROOT.glob("*.md"),
    *(path for folder in ("demo", "docs", "tests", "web") for path in (ROOT / folder).rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_name_files_that_there_are(page):
    """Links, tests in commands, and modules."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            assert page.parent.joinpath(target.partition("#")[0]).exists(), target
    for path in [*re.findall(r"\btests/[\w/]+\.py\b", text), *re.findall(r"`((?:[a-z_]+/)+\w+\.py)`", text)]:
        assert (ROOT / path).exists(), path
