"""Every locale names every node, input and output; the English one says what the code says."""

import json
import re
from pathlib import Path

import pytest
from generative_inbetweening.nodes import NODES
from generative_inbetweening.nodes.schema import CATEGORY
from generative_inbetweening.tools.update_english_locale import ENGLISH, english, text_of
from generative_inbetweening.weights.folders import register_backward_motion_folder
from helpers.server import Server

register_backward_motion_folder()
LOCALES = Path(__file__).resolve().parents[2] / "locales"
TRANSLATIONS = ["es", "zh"]
# Words that are the same in every language.
SAME = {"VAE", "fps"}
# What a graph or a folder holds, which no locale may change.
LITERAL = re.compile(r"\b[\w/]+\.safetensors\b|\bmodels/\w+|\boutput/\w+|\b\d+(?:\.\d+)?\b")


def category_in(language: str) -> str:
    """What the menu calls the pack's category; the host looks its words up in main.json."""
    words = json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))
    assert list(words) == ["nodeCategories"] and list(words["nodeCategories"]) == [CATEGORY]
    return words["nodeCategories"][CATEGORY]


def content_of(language: str) -> dict:
    def once(pairs):
        assert len({key for key, _ in pairs}) == len(pairs), f"{language}: a key is there twice"
        return dict(pairs)

    text = (LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8")
    return json.loads(text, object_pairs_hook=once)


def texts(content: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Every text of a locale under its path, such as (node, inputs, id, tooltip)."""
    found = {}
    for key, value in content.items():
        found.update(texts(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value})
    return found


def test_english_says_what_the_code_says():
    command = "python -m generative_inbetweening.tools.update_english_locale"
    assert ENGLISH.read_text(encoding="utf-8") == text_of(english(NODES)), f"run {command}"


def test_every_language_is_tested():
    assert {path.name for path in LOCALES.iterdir()} == {"en", *TRANSLATIONS}


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_nothing_is_missing_or_left_over(language):
    wanted, found = set(texts(english(NODES))), set(texts(content_of(language)))
    assert not wanted - found, "missing"
    assert not found - wanted, "left over"


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_everything_is_translated(language):
    source = texts(english(NODES))
    for path, text in texts(content_of(language)).items():
        assert text.strip() == text and text, path
        assert text != source[path] or text in SAME, path
        if language == "zh" and text not in SAME:
            assert re.search(r"[\u4e00-\u9fff]", text), path


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_the_menus_category_is_translated(language):
    assert category_in(language) not in ("", CATEGORY)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_numbers_files_and_folders_are_kept(language):
    source = texts(english(NODES))
    for path, text in texts(content_of(language)).items():
        if path[-1] in ("tooltip", "description"):
            assert set(LITERAL.findall(text)) == set(LITERAL.findall(source[path])), path


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_choices_are_named_as_the_widget_shows_them(language):
    """Choices are not translated by the host, so a tooltip that explains them names them in English."""
    source, translated = texts(english(NODES)), texts(content_of(language))
    for schema in (node.define_schema() for node in NODES):
        for item in schema.inputs:
            path = (schema.node_id, "inputs", item.id, "tooltip")
            for choice in getattr(item, "options", None) or []:
                if f"{choice}:" in source[path]:
                    assert re.search(rf"{re.escape(choice)}[:：]", translated[path]), path


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_titles_can_be_told_apart(language):
    content = content_of(language)
    assert len({node["display_name"] for node in content.values()}) == len(content)
    for name, node in content.items():
        names = [item["name"] for item in node["inputs"].values()]
        assert len(set(names)) == len(names), name


def test_the_host_serves_them_and_none_for_an_unknown_locale(server: Server):
    """For a language that is not in the answer the user interface keeps the English words."""
    status, served = server.ask("GET", "/i18n")
    assert status == 200 and set(served) == {"en", *TRANSLATIONS}
    for language in served:
        assert served[language]["nodeDefs"] == content_of(language)
    for language in TRANSLATIONS:
        assert served[language]["nodeCategories"] == {CATEGORY: category_in(language)}
