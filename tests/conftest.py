"""Makes a real ComfyUI importable before any test is read, and offers what most tests share."""

from collections.abc import Iterator

import pytest
from generative_inbetweening.tools.host import import_host

# The helpers' own asserts say what they compared.
pytest.register_assert_rewrite("helpers")

try:
    import_host()
except FileNotFoundError as error:
    raise pytest.UsageError(str(error)) from error

from helpers import server as real_server  # noqa: E402
from helpers import small_model  # noqa: E402
from helpers.model_folders import complete_reference  # noqa: E402

complete_reference()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what starts a server or a browser, before `-m` chooses."""
    for item in items:
        for fixture, marker in (("server", "server"), ("window", "browser")):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The small model: (model with backward motion, CLIP vision, VAE)."""
    return small_model.load(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def encoded(models):
    """(positive, negative, latent) of its two pictures."""
    return small_model.encode(models)


@pytest.fixture(scope="module")
def expected(models, encoded):
    """The latents that it samples between them."""
    return small_model.sample(models[0], encoded)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_server.Server]:
    """A ComfyUI server with the pack, the demo's files and the reference's models, one for the whole run."""
    with real_server.started(tmp_path_factory.mktemp("comfyui") / "base") as server:
        yield server
