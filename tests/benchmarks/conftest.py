"""The quality benchmark's methods with the demo's model."""

import copy

import folder_paths
import pytest
from generative_inbetweening.benchmarks.common.methods import Methods
from generative_inbetweening.benchmarks.quality.methods import SAMPLED
from generative_inbetweening.tools.paths import DEMO
from generative_inbetweening.weights.files import read_metadata

CHECKPOINT, BACKWARD_MOTION = DEMO / "demo_svd.safetensors", DEMO / "demo_backward_motion.safetensors"
# A whole run takes minutes; so few steps keep the order of the methods.
SETTINGS = {"preset": "fast"}


@pytest.fixture(scope="module")
def demo_files():
    """The demo's model, and {name of a method's weights: file}; the host's model folders are afterwards as before."""
    folders = copy.deepcopy(folder_paths.folder_names_and_paths)
    yield CHECKPOINT, {"rotated": BACKWARD_MOTION}
    folder_paths.folder_names_and_paths.clear()
    folder_paths.folder_names_and_paths.update(folders)
    folder_paths.filename_list_cache.clear()


@pytest.fixture(scope="module")
def methods(demo_files):
    with Methods(*demo_files, SETTINGS, SAMPLED) as methods:
        yield methods


@pytest.fixture
def trained():
    """Skips where the demo's model holds random weights, whose videos mean nothing."""
    if read_metadata(CHECKPOINT).get("trained") != "yes":
        pytest.skip(f"{CHECKPOINT.name} holds random weights, its videos mean nothing")
