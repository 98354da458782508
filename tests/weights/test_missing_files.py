"""With no weights in place: what the loaders' lists and errors say, by the nodes and by a real server."""

import copy
import json
import re
from types import SimpleNamespace

import folder_paths
import pytest
from generative_inbetweening.common.errors import WeightsError
from generative_inbetweening.nodes import InbetweenConvertBackwardMotion, InbetweenLoadBackwardMotion, InbetweenLoadSVD
from generative_inbetweening.tools.run_workflow import WorkflowFailed
from generative_inbetweening.weights.folders import register_backward_motion_folder
from helpers.server import ROOT, api_workflow, inputs_of

XT, SVD = (
    f"https://huggingface.co/stabilityai/stable-video-diffusion-img2vid{end}"
    for end in ("-xt/resolve/main/svd_xt.safetensors", "/resolve/main/svd.safetensors")
)
AUTHORS = "https://drive.google.com/drive/folders/1H7vgiNVbxSeeleyJOqhoyRbJ97kGWGOK"


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A host without a single model."""
    register_backward_motion_folder()
    kinds = ("checkpoints", "diffusers", "diffusion_models", "backward_motion")
    folders = copy.copy(folder_paths.folder_names_and_paths)
    folders.update({kind: ([str(tmp_path / kind)], folders[kind][1]) for kind in kinds})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folders)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})


def choices(node, name: str) -> list[str]:
    return next(item.options for item in node.define_schema().inputs if item.id == name)


def test_empty_lists_say_what_goes_where_and_choosing_that_gives_the_link(empty):
    (model,) = choices(InbetweenLoadSVD, "model_name")
    (backward,) = choices(InbetweenLoadBackwardMotion, "backward_motion")
    (base,) = choices(InbetweenConvertBackwardMotion, "base")
    assert "svd_xt.safetensors into models/checkpoints" in model and "svd.safetensors into models/checkpoints" in base
    assert "Convert Backward Motion Weights" in backward
    # The file is looked for first, so that the model is not looked at.
    any_model = SimpleNamespace(model=None, model_options={}, load_device=None)
    for run, words in (
        (lambda: InbetweenLoadSVD.execute(model), XT),
        (lambda: InbetweenLoadBackwardMotion.execute(any_model, backward, 1.0), AUTHORS),
        (lambda: InbetweenConvertBackwardMotion.execute(base, base, "name", "fp16", False), SVD),
    ):
        with pytest.raises(WeightsError, match=re.escape(words)):
            run()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("svd_xt.safetensors", XT),
        ("svd.safetensors", SVD),
        ("another.safetensors", XT),
        ("svd_reverse_motion_with_attnflip/", AUTHORS),
        ("another/", "Put it there and press R"),
    ],
)
def test_missing_model_is_named_with_its_link(empty, name, words):
    with pytest.raises(WeightsError, match=f"model_name: Expected .*{re.escape(name)} in models/.*{re.escape(words)}"):
        InbetweenLoadSVD.execute(name)


def refusal(name: str, file: str, link: str) -> str:
    """What the server says of a file that is not there: our sentence, on newer hosts the list of those that are."""
    return (
        f"failed: {name}: .*{re.escape(file)}.*{re.escape(link)}"
        f"|refused .*Value not in list: {name}: '{re.escape(file)}' not in "
    )


def test_server_says_it_for_the_shipped_graph(server):
    """The example's own file names, on a host that lacks them."""
    graph = json.loads((ROOT / "workflows" / "generative_inbetweening.json").read_text(encoding="utf-8"))
    names = {node["type"]: node["widgets_values"][0] for node in graph["nodes"] if node.get("widgets_values")}
    workflow = api_workflow("generative_inbetweening")
    inputs_of(workflow, "InbetweenLoadSVD")["model_name"] = names["InbetweenLoadSVD"]
    with pytest.raises(WorkflowFailed, match=refusal("model_name", "svd_xt.safetensors", XT)):
        server.run(workflow)
    # The conversion's own test makes the file on the same server.
    (server.base / "models" / "backward_motion" / names["InbetweenLoadBackwardMotion"]).unlink(missing_ok=True)
    workflow = api_workflow("generative_inbetweening")
    inputs_of(workflow, "InbetweenLoadBackwardMotion")["backward_motion"] = names["InbetweenLoadBackwardMotion"]
    with pytest.raises(WorkflowFailed, match=refusal("backward_motion", "svd_backward_motion.safetensors", AUTHORS)):
        server.run(workflow)
