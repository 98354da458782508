"""Before and behind a sequence: pictures of different sizes, a host without the nodes that save videos."""

import io

import pytest
import torch
from comfyui_server import Server, api_workflow, node_of
from generative_inbetweening.nodes import NODES
from generative_inbetweening.weights.host_paths import register_backward_motion_folder
from PIL import Image
from test_sequence import output, sequence  # noqa: F401

from nodes import ImageBatch

pytest_plugins = ["server_fixture"]


def test_keyframes_of_different_sizes_become_one_batch_and_one_size(models):  # noqa: F811
    pictures = [torch.rand(1, height, width, 3) for height, width in ((80, 120), (40, 40), (64, 256))]
    batch = pictures[0]
    for picture in pictures[1:]:
        batch, = ImageBatch().batch(batch, picture)
    images, _ = sequence(models, batch, frames_per_segment="2")
    assert images.shape == (3, 64, 64, 3)


def test_no_node_needs_the_hosts_video_nodes():
    register_backward_motion_folder()
    for schema in (node.define_schema() for node in NODES):
        for item in [*schema.inputs, *schema.outputs]:
            assert item.get_io_type() != "VIDEO", (schema.node_id, item.id)


@pytest.mark.parametrize("name", ["keyframe_sequence"])
def test_images_come_out_where_there_are_no_video_nodes(server: Server, name):
    workflow = api_workflow(name)
    for kind in ("CreateVideo", "SaveVideo"):
        del workflow[node_of(workflow, kind)]
    sequence_node = node_of(workflow, "InbetweenKeyframeSequence")
    workflow[sequence_node]["inputs"].update(frames_per_segment="3", steps=2, reinjections=0)
    for kind in ("InbetweenContactSheet", "InbetweenReport"):
        workflow[node_of(workflow, kind)]["inputs"]["keyframes"] = "0, 2, 4"
    workflow["images"] = {"class_type": "SaveImage",
                          "inputs": {"images": [sequence_node, 0], "filename_prefix": "frames"}}
    run = server.run(workflow)
    files = run.outputs["images"]["images"]
    assert len(files) == 5
    picture = Image.open(io.BytesIO(server.view(files[0])))
    assert picture.size == (64, 64)
