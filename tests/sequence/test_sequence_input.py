"""Before and behind a sequence: pictures of all sizes and formats, a host without the nodes that save videos."""

import io

import pytest
import torch
from generative_inbetweening.nodes import NODES
from generative_inbetweening.weights.folders import register_backward_motion_folder
from helpers.pictures import WIDE, clip_of
from helpers.sequences import sequence
from helpers.server import SMALL, Server, node_of, small_workflow, with_frames, with_settings
from helpers.small_model import pictures
from PIL import Image

from nodes import ImageBatch


def test_keyframes_of_different_sizes_become_one_batch_and_one_size(models):
    batch, *others = [torch.rand(1, height, width, 3) for height, width in ((80, 120), (40, 40), (64, 256))]
    for picture in others:
        (batch,) = ImageBatch().batch(batch, picture)
    images, _ = sequence(models, batch, frames_per_segment="2")
    assert images.shape == (3, 64, 64, 3)


def test_a_sequence_says_each_once(models, caplog):
    first, last = (picture.repeat(1, 1, 2, 1) for picture in pictures())
    sequence(models, torch.cat([first, first, last, last]).half(), frames_per_segment="3")
    remarks = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split(":")[0] for line in remarks] == ["keyframes", "frames_per_segment", "keyframes"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_sequence_of_keyframes_of_other_number_formats(models, dtype):
    batch = torch.cat([WIDE, WIDE.flip(1)]).to(dtype)
    found, _ = sequence(models, batch, resume=False)
    expected, _ = sequence(models, batch.float(), resume=False)
    assert torch.equal(found, expected)


def test_a_sequence_names_the_clip_of_another_model(models, tmp_path):
    with pytest.raises(ValueError, match="^clip_vision: expected CLIP image embeddings .* found 24"):
        sequence((models[0], clip_of(tmp_path), models[2]), torch.cat(pictures()))


def test_no_node_needs_the_hosts_video_nodes():
    register_backward_motion_folder()
    for schema in (node.define_schema() for node in NODES):
        for item in [*schema.inputs, *schema.outputs]:
            assert item.get_io_type() != "VIDEO", (schema.node_id, item.id)


@pytest.mark.parametrize("name", ["keyframe_sequence"])
def test_images_come_out_where_there_are_no_video_nodes(server: Server, name):
    workflow = small_workflow(name)
    for kind in ("CreateVideo", "SaveVideo"):
        del workflow[node_of(workflow, kind)]
    sequence_node = node_of(workflow, "InbetweenKeyframeSequence")
    with_frames(workflow, 3)
    with_settings(workflow, "InbetweenKeyframeSequence", steps=2, reinjections=0)
    for kind in ("InbetweenContactSheet", "InbetweenReport"):
        workflow[node_of(workflow, kind)]["inputs"]["keyframes"] = "0, 2, 4"
    workflow["images"] = {
        "class_type": "SaveImage",
        "inputs": {"images": [sequence_node, 0], "filename_prefix": "frames"},
    }
    run = server.run(workflow)
    files = run.outputs["images"]["images"]
    assert len(files) == 5
    picture = Image.open(io.BytesIO(server.view(files[0])))
    assert picture.size == (SMALL, SMALL)
