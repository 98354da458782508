"""ComfyUI's window in a headless Chromium."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from generative_inbetweening.tools.chromium import find_chromium
from helpers.server import ROOT, Server
from helpers.window import READY, SECONDS, nothing_covers
from playwright.sync_api import Page, sync_playwright

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
]


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("INBETWEEN_SCREENSHOTS")
    folder = ROOT / named if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def window(server: Server) -> Iterator[Page]:
    """ComfyUI's window, ready, with nothing in front of the graph."""
    chromium = find_chromium()
    if chromium is None:
        words = "no Chromium here; install one or name it in INBETWEEN_CHROMIUM"
        pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 2400, "height": 1100}, base_url=server.url)
        page.set_default_timeout(120 * SECONDS)
        page.add_init_script('localStorage.vueNodesBannerDismissed = "true"')
        page.request.post(
            "/settings",
            data={
                "Comfy.TutorialCompleted": True,
                "Comfy.Minimap.Visible": False,
                "Comfy.Graph.CanvasInfo": False,
                # Words stay in sight in the pictures of wide graphs.
                "LiteGraph.Canvas.MinFontSizeForLOD": 0,
            },
        )
        page.goto("/")
        page.wait_for_function(READY)
        page.wait_for_timeout(1 * SECONDS)
        yield page
        browser.close()


@pytest.fixture(autouse=True)
def nothing_in_front(window: Page) -> Iterator[None]:
    yield
    nothing_covers(window)
