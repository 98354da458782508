"""The workflows that go on behind the inbetweening: an upscaler, the host's frame interpolation, RIFE.

Nodes that the running host lacks are held against tests/data/object_info_interpolation.json, which names its sources.
"""

import io
import json

import av
import pytest
import safetensors.torch
import torch
from helpers.chained_graphs import COMMON, NAMES, doubling_upscaler, graph_of
from helpers.server import ROOT, Server, node_of, small_workflow, with_settings

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
# A choice of newer hosts that brings inputs of its own, such as SaveVideo's format.
DYNAMIC_CHOICE = "COMFY_DYNAMICCOMBO_V3"
# Chosen by the user among the user's own files.
FILES = {
    "svd_xt.safetensors",
    "svd_backward_motion.safetensors",
    "first.png",
    "last.png",
    "RealESRGAN_x4plus.safetensors",
    "film_net_fp16.safetensors",
}


@pytest.fixture(scope="module")
def object_info(server: Server) -> dict:
    published = json.loads((ROOT / "tests" / "data" / "object_info_interpolation.json").read_text(encoding="utf-8"))
    return published | server.ask("GET", "/object_info")[1]


@pytest.fixture(params=NAMES)
def graph(request) -> dict:
    return graph_of(request.param)


def nodes_of(graph: dict) -> dict[int, dict]:
    return {node["id"]: node for node in graph["nodes"] if node["type"] != "MarkdownNote"}


def inputs_of(info: dict) -> dict[str, tuple[object, dict]]:
    """{name: (type, options)} of a node's inputs; the type of a choice is the list of choices."""
    found = {}
    for name, (kind, *options) in [*info["input"]["required"].items(), *info["input"].get("optional", {}).items()]:
        options = options[0] if options else {}
        if kind == "COMBO":
            kind = options["options"]
        elif kind == DYNAMIC_CHOICE:
            kind = [option["key"] for option in options["options"]]
        found[name] = (kind, options)
    return found


def values_of(node: dict) -> dict[str, object]:
    """{widget: value} of a node in a graph; a seed's value has another behind it, what becomes of the seed."""
    values, found = list(node.get("widgets_values", [])), {}
    for item in node["inputs"]:
        if "widget" in item:
            found[item["name"]] = values.pop(0)
            if item["name"] == "seed":
                assert values.pop(0) in ("fixed", "increment", "decrement", "randomize")
    assert not values, node["type"]
    return found


def to_api(graph: dict) -> dict:
    """The graph as the server takes it."""
    sources = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    return {
        str(key): {
            "class_type": node["type"],
            "inputs": values_of(node)
            | {item["name"]: sources[item["link"]] for item in node["inputs"] if item["link"] is not None},
        }
        for key, node in nodes_of(graph).items()
    }


def test_links_join_what_fits(graph, object_info):
    nodes = nodes_of(graph)
    for number, source, slot, target, place, kind in graph["links"]:
        item = nodes[target]["inputs"][place]
        assert number in nodes[source]["outputs"][slot]["links"] and item["link"] == number
        assert object_info[nodes[source]["type"]]["output"][slot] == kind
        assert inputs_of(object_info[nodes[target]["type"]])[item["name"]][0] == kind
    linked = [item["link"] for node in nodes.values() for item in node["inputs"] if item["link"] is not None]
    assert sorted(linked) == sorted(link[0] for link in graph["links"])


def test_inputs_are_those_of_the_nodes(graph, object_info):
    for node in nodes_of(graph).values():
        info = object_info[node["type"]]
        # LoadImage's upload button is the user interface's own.
        named = {item["name"]: item for item in node["inputs"] if item["type"] != "IMAGEUPLOAD"}
        wanted = inputs_of(info)
        assert set(info["input"]["required"]) <= set(named) <= set(wanted), node["type"]
        for name, item in named.items():
            kind = wanted[name][0]
            assert item["type"] == ("COMBO" if isinstance(kind, list) else kind)
            assert ("widget" in item) == (item["type"] in WIDGETS)
            assert "widget" in item or item["link"] or name in info["input"].get("optional", {}), name
        # Newer hosts hand on what their last nodes got.
        outputs = [item["type"] for item in node["outputs"]]
        assert outputs == info["output"][: len(outputs)]
        assert len(outputs) == len(info["output"]) or (not node["type"].startswith("Inbetween") and info["output_node"])


def test_widget_values_are_legal(graph, object_info):
    for node in nodes_of(graph).values():
        wanted = inputs_of(object_info[node["type"]])
        for name, value in values_of(node).items():
            if name == "upload":
                continue
            kind, options = wanted[name]
            where = f"{node['type']}.{name} = {value!r}"
            if isinstance(kind, list):
                assert value in kind or value in FILES, where
            elif kind in ("INT", "FLOAT"):
                assert type(value) is int or (kind == "FLOAT" and type(value) is float), where
                assert options.get("min", value) <= value <= options.get("max", value), where
            else:
                assert type(value) is {"STRING": str, "BOOLEAN": bool}[kind], where


def test_the_first_part_is_the_basic_workflow(graph):
    def settings(content: dict) -> dict:
        return {node["type"]: values_of(node) for node in content["nodes"] if node["type"] in COMMON}

    assert settings(graph) == settings(graph_of("generative_inbetweening"))


@pytest.mark.parametrize("name", ["inbetween_vfi_core", "inbetween_vfi_rife"])
def test_interpolated_video_lasts_as_long(name):
    values = {node["type"]: values_of(node) for node in nodes_of(graph_of(name)).values()}
    multiplier = next(value["multiplier"] for value in values.values() if "multiplier" in value)
    assert values["CreateVideo"]["fps"] == multiplier * values["InbetweenEncodeKeyframes"]["fps"]


def test_no_workflow_holds_a_deprecated_node(object_info):
    paths = (ROOT / "workflows").glob("*.json")
    kinds = {node["type"] for path in paths for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
    deprecated = {kind for kind in kinds if object_info.get(kind, {}).get("deprecated")}
    # Its successor is not in ComfyUI 0.3.75, where nothing else joins two pictures into a batch.
    assert deprecated <= {"ImageBatch"}


def test_manager_can_offer_the_pack_with_rife():
    node = next(node for node in graph_of("inbetween_vfi_rife")["nodes"] if node["type"] == "RIFE VFI")
    assert node["properties"]["cnr_id"] == "comfyui-frame-interpolation"
    assert node["properties"]["aux_id"] == "Fannovel16/ComfyUI-Frame-Interpolation"


def test_upscaled_video_is_the_video_enlarged(server: Server):
    folder = server.base / "models" / "upscale_models"
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file(doubling_upscaler(), folder / "doubling.safetensors")
    demo = {node["class_type"]: node["inputs"] for node in small_workflow("generative_inbetweening").values()}
    workflow = server.fresh(to_api(graph_of("inbetween_upscale")))
    ids = {node["class_type"]: key for key, node in workflow.items()}
    for name in COMMON:
        own = {key: value for key, value in demo[name].items() if not isinstance(value, list)}
        workflow[ids[name]]["inputs"].update(own)
    with_settings(workflow, steps=2, reinjections=0)
    workflow[ids["UpscaleModelLoader"]]["inputs"]["model_name"] = "doubling.safetensors"
    for key, source in (("small", "VAEDecode"), ("large", "ImageUpscaleWithModel")):
        workflow[key] = {"class_type": "SaveImage", "inputs": {"images": [ids[source], 0], "filename_prefix": key}}
    run = server.run(workflow)
    frames = demo["InbetweenEncodeKeyframes"]["frames"]
    small, large = (pictures(server, run.outputs[key]["images"]) for key in ("small", "large"))
    assert len(small) == frames
    enlarged = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert large.shape == enlarged.shape
    # One step of 8 bits: the upscaler rounds once more.
    assert (large.int() - enlarged.int()).abs().max() <= 1
    with av.open(io.BytesIO(server.view(run.file(ids["SaveVideo"])))) as video:
        decoded = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert (len(decoded), *decoded[0].shape) == tuple(large.shape)


def test_closed_loop_gets_in_betweens_at_its_seam(server: Server, object_info):
    """What the notes of the graphs with interpolation say of loops: 2N frames of N, each step half as long."""
    interpolation = pytest.importorskip("comfy_extras.frame_interpolation_models.film_net", reason="ComfyUI below 0.25")
    folder = server.base / "models" / "frame_interpolation"
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    weights = {name: value.half().contiguous() for name, value in interpolation.FILMNet().state_dict().items()}
    safetensors.torch.save_file(weights, folder / "random.safetensors")
    workflow = server.fresh(small_workflow("seamless_loop"))
    sequence = node_of(workflow, "InbetweenKeyframeSequence")
    workflow[sequence]["inputs"] |= {"close_loop": True, "resume": False, "preset": "fast"}
    dropped = {"image": ["interpolated", 0], "batch_index": 1, "length": 4096}
    for name, kind, values in (
        ("model", "FrameInterpolationModelLoader", {"model_name": "random.safetensors"}),
        ("interpolated", "FrameInterpolate", {"interp_model": ["model", 0], "images": [sequence, 0], "multiplier": 2}),
        ("dropped", "ImageFromBatch", dropped),
        ("closed", "SaveImage", {"images": [sequence, 0], "filename_prefix": "closed"}),
        ("smooth", "SaveImage", {"images": ["dropped", 0], "filename_prefix": "smooth"}),
    ):
        workflow[name] = {"class_type": kind, "inputs": values}
    run = server.run(workflow)
    closed, smooth = (pictures(server, run.outputs[name]["images"]) for name in ("closed", "smooth"))
    assert torch.equal(closed[0], closed[-1])
    assert len(smooth) == 2 * (len(closed) - 1)
    # Every frame of the loop once, each behind the in-between that leads to it; the last one is the loop's first.
    assert torch.equal(smooth[1::2], closed[1:])
    following = smooth.roll(-1, 0)
    assert not any(torch.equal(frame, after) for frame, after in zip(smooth, following, strict=True))


def pictures(server: Server, files: list[dict]) -> torch.Tensor:
    """Saved pictures as one tensor `[frames, height, width, 3]`, 8 bits."""
    frames = []
    for file in files:
        with av.open(io.BytesIO(server.view({key: file[key] for key in ("filename", "subfolder", "type")}))) as picture:
            frames.append(torch.from_numpy(next(picture.decode(video=0)).to_ndarray(format="rgb24")))
    return torch.stack(frames)
