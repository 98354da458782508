"""Imports go down only, and the method needs torch alone: what CONTRIBUTING says of the floors."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "nodes": {"sequence", "inspection", "sampler", "weights", "common"},
    "sequence": {"sampler", "weights", "common"},
    "inspection": {"sampler", "weights", "common"},
    "sampler": {"weights", "common"},
    "weights": {"common"},
    "common": set(),
    "training": {"weights", "common"},
}


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """What a file imports: a path from the pack's folder, or a top-level module with `!` before it."""
    folder = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.level, node.module)] if node.module else [(node.level, alias.name) for alias in node.names]
        else:
            continue
        for level, name in names:
            parts = tuple(name.split("."))
            if level:
                yield (*folder[: len(folder) + 1 - level], *parts)
            elif parts[0] == "generative_inbetweening":
                yield parts[1:]
            else:
                yield "!", parts[0]


@pytest.mark.parametrize("floor", MAY_IMPORT)
def test_imports_go_down(floor: str) -> None:
    files = list((ROOT / floor).rglob("*.py"))
    assert files
    for path in files:
        for imported in imports(path):
            if imported and imported[0] != "!":
                assert imported[0] in {floor, *MAY_IMPORT[floor]}, f"{path.relative_to(ROOT)}: {'.'.join(imported)}"


def test_the_method_is_torch_alone() -> None:
    for path in (ROOT / "sampler" / "method").rglob("*.py"):
        for imported in imports(path):
            allowed = imported[:2] == ("sampler", "method") or imported[1] in {"torch", *sys.stdlib_module_names}
            assert allowed, f"{path.relative_to(ROOT)}: {'.'.join(imported)}"
