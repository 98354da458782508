"""Makes a real ComfyUI importable, before any test is read, and offers the small model that most tests sample with."""

import pytest
from generative_inbetweening.tools.import_host import import_host

try:
    import_host()
except FileNotFoundError as error:
    raise pytest.UsageError(str(error)) from error


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The small model: (model with backward motion, CLIP vision, VAE)."""
    from helpers.small_model import load

    return load(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def encoded(models):
    """(positive, negative, latent) of its two pictures."""
    from helpers.small_model import encode

    return encode(models)


@pytest.fixture(scope="module")
def expected(models, encoded):
    """The latents that it samples between them."""
    from helpers.small_model import sample

    return sample(models[0], encoded)
