"""Help pages and languages in ComfyUI's own window, and the window that `dev.py serve` opens.

The help pages' pictures go to the folder that INBETWEEN_HELP_PICTURES names (web/docs), if it names one.
"""

import json
import os
from collections.abc import Iterator

import pytest
from generative_inbetweening.nodes.schema import CATEGORY
from generative_inbetweening.tools.paths import PACK_NAME, SERVE_TEMPLATE
from helpers.server import ROOT
from helpers.window import MISSING, READY, RUN, SECONDS, SHOW, TITLE_BAR, UNKNOWN, for_the_demo, load
from playwright.sync_api import Page

# Where each node is shown.
NODES = {
    "generative_inbetweening": [
        "InbetweenLoadSVD",
        "InbetweenLoadBackwardMotion",
        "InbetweenEncodeKeyframes",
        "InbetweenDualDirectionKSampler",
    ],
    "middle_keyframe": ["InbetweenMiddleKeyframe"],
    "generative_inbetweening_advanced": [
        "InbetweenDualDirectionGuider",
        "InbetweenReinjectionSampler",
        "InbetweenMatchKeyframes",
    ],
    "training_free": ["InbetweenSettings"],
    "convert_backward_motion": ["InbetweenConvertBackwardMotion"],
    "keyframe_sequence": ["InbetweenKeyframe", "InbetweenKeyframeSequence", "InbetweenContactSheet", "InbetweenReport"],
}
PICTURES = os.environ.get("INBETWEEN_HELP_PICTURES")
SHOWS_RESULTS = "keyframe_sequence"
# One node in its own size, beside an open help page; the answer is where it and the ends of its links lie.
NODE_ALONE = """async type => {
    const node = app.graph.nodes.find(node => node.type === type), {ds, canvas} = app.canvas;
    const [x, y, width, height] = node.boundingRect ?? node._bounding, left = 1000, top = 140, margin = 40;
    ds.scale = 1;
    ds.offset = [left - x, top - y];
    app.canvas.deselectAll();
    app.canvas.setDirty(true, true);
    await new Promise(resolve => setTimeout(resolve, 800));
    const box = canvas.getBoundingClientRect();
    return {x: box.x + left - margin, y: box.y + top - margin, width: width + 2 * margin,
            height: height + 2 * margin};
}"""
# Of every node of the pack: its title, and how its inputs and widgets are called in the window.
LABELS = """() => app.graph.nodes.filter(node => node.type.startsWith('Inbetween')).map(node => [node.type, node.title,
    Object.fromEntries([
        ...node.inputs.filter(input => !input.widget).map(input => [input.name, input.label ?? input.localized_name]),
        ...(node.widgets ?? []).filter(widget => widget.type !== 'button')
            .map(widget => [widget.name, widget.label ?? widget.name])])])"""

CATEGORY_SHOWN = "() => LiteGraph.registered_node_types.InbetweenEncodeKeyframes.category"

# The window of ComfyUI 0.3.75 forgets the words of node packs when it loads a language (ComfyUI_frontend, pull request
# 7214, where it is mended): they are given to it again, as later windows do.
GIVE_WORDS = """async language => {
    const vue = document.querySelector('#vue-app').__vue_app__;
    const words = (await app.api.getCustomNodesI18n())[language];
    if (words) vue._context.provides[vue.__VUE_I18N_SYMBOL__].global.mergeLocaleMessage(language, words);
    await app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions');
}"""


@pytest.fixture(scope="module", params=NODES)
def graph(request, window: Page) -> str:
    load(window, for_the_demo(window, request.param))
    if PICTURES:
        if request.param == SHOWS_RESULTS:
            kind, details = window.evaluate(RUN)
            assert kind == "execution_success", details
        for node in NODES[request.param]:
            window.screenshot(
                path=ROOT / PICTURES / f"{node}.jpg", type="jpeg", quality=80, clip=window.evaluate(NODE_ALONE, node)
            )
    window.evaluate(SHOW)
    return request.param


def test_help_pages_open_with_their_pictures(window, screenshots, graph):
    for node in NODES[graph]:
        title = window.evaluate("type => LiteGraph.registered_node_types[type].title", node)
        window.mouse.click(*window.evaluate(TITLE_BAR, node))
        window.get_by_test_id("info-button").first.click()
        window.get_by_role("heading", name=title, exact=True, level=1).wait_for()
        picture = window.locator(f"img[src*='/extensions/{PACK_NAME}/docs/{node}.jpg']")
        picture.wait_for()
        window.wait_for_function("image => image.complete && image.naturalWidth > 100", arg=picture.element_handle())
        window.screenshot(path=screenshots / f"help_{node}.png")


def another_window(window: Page) -> Page:
    """A page of the same browser that has nothing loaded."""
    page = window.context.browser.new_page(viewport={"width": 2000, "height": 1100}, base_url=window.url)
    page.set_default_timeout(120 * SECONDS)
    return page


@pytest.fixture
def localized(request, window: Page) -> Iterator[Page]:
    """ComfyUI's window in another language."""
    window.request.post("/settings", data={"Comfy.Locale": request.param})
    page = another_window(window)
    page.add_init_script('localStorage.vueNodesBannerDismissed = "true"')
    page.goto("/")
    page.wait_for_function(READY)
    page.wait_for_timeout(2 * SECONDS)
    yield page
    page.close()
    window.request.post("/settings", data={"Comfy.Locale": "en"})


def locale_of(request) -> str:
    return request.node.callspec.params["localized"]


# The last is none that ComfyUI has: its window then stays English.
@pytest.mark.parametrize("localized", ["es", "zh", "tlh"], indirect=True)
def test_labels_are_in_the_windows_language(window, localized, screenshots, request):
    language = locale_of(request)
    words = ROOT / "locales" / (language if (ROOT / "locales" / language).is_dir() else "en") / "nodeDefs.json"
    wanted = json.loads(words.read_text(encoding="utf-8"))
    localized.evaluate(GIVE_WORDS, language)
    # The demo's values are known by the English titles.
    load(localized, for_the_demo(window, "keyframe_sequence"))
    assert localized.evaluate(MISSING) == []
    categories = words.with_name("main.json")
    wanted_category = (
        json.loads(categories.read_text(encoding="utf-8"))["nodeCategories"] if categories.exists() else {}
    )
    assert localized.evaluate(CATEGORY_SHOWN) == wanted_category.get(CATEGORY, CATEGORY)
    found = localized.evaluate(LABELS)
    assert len({node for node, _, _ in found}) == 6
    saved = json.loads((ROOT / "workflows" / "keyframe_sequence.json").read_text(encoding="utf-8"))
    given = {node["title"] for node in saved["nodes"] if "title" in node}
    for node, title, labels in found:
        assert title == wanted[node]["display_name"] or title in given
        for name, label in labels.items():
            assert label == wanted[node]["inputs"][name]["name"], (node, name)
    box = localized.evaluate(NODE_ALONE, "InbetweenKeyframeSequence")
    localized.screenshot(path=screenshots / f"labels_{language}.png", clip={**box, "x": box["x"] - 340, "width": 1200})


def test_served_address_opens_the_example(window):
    """The address that `dev.py serve` opens."""
    page = another_window(window)
    try:
        page.goto(f"/?template={SERVE_TEMPLATE}&source={PACK_NAME}")
        page.wait_for_function("""() => window.app && app.graph
            && app.graph.nodes.some(node => node.type === 'InbetweenDualDirectionKSampler')""")
        # Newer windows mark the loader, whose file is not here.
        assert page.evaluate(UNKNOWN) == []
    finally:
        page.close()


def test_every_node_is_shown():
    pages = {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}
    assert {node for nodes in NODES.values() for node in nodes} == pages
