"""Makes the pack and a real ComfyUI importable: the pack as `generative_inbetweening`, the host as ComfyUI itself."""

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "benchmark_host", Path(__file__).resolve().parents[1] / "benchmarks" / "host.py"
)
_host = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_host)

try:
    _host.import_host(_host.comfyui())
except FileNotFoundError as error:
    raise pytest.UsageError(str(error)) from error
_host.import_pack()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The small model: (model with backward motion, CLIP vision, VAE)."""
    from small_model import load

    return load(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def encoded(models):
    """(positive, negative, latent) of its two pictures."""
    from small_model import encode

    return encode(models)


@pytest.fixture(scope="module")
def expected(models, encoded):
    """The latents that it samples between them."""
    from small_model import sample

    return sample(models[0], encoded)
