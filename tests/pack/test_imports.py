"""Imports go down only, and the method needs torch alone: what CONTRIBUTING says of the floors."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACK = "generative_inbetweening"
MAY_IMPORT = {
    "nodes": {"sequence", "inspection", "sampler", "weights", "common"},
    "sequence": {"sampler", "weights", "common"},
    "inspection": {"sampler", "weights", "common"},
    "sampler": {"weights", "common"},
    "weights": {"common"},
    "common": set(),
    "training": {"weights", "common"},
    "demo": {"training", "weights", "common"},
    "tools": {"nodes", "weights", "common"},
    "benchmarks": {
        *("nodes", "sequence", "inspection", "sampler", "weights", "common"),
        *("training", "demo", "tools"),
    },
}


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """What a file imports: a path from the pack's folder, empty for the whole pack, or `!` and a module of others."""
    folder = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = f"{node.module}." if node.module else ""
            within = not node.module or node.module == PACK
            names = (
                [(node.level, module + alias.name) for alias in node.names] if within else [(node.level, module[:-1])]
            )
        else:
            continue
        for level, name in names:
            parts = tuple(name.split("."))
            if level:
                yield (*folder[: len(folder) + 1 - level], *parts)
            elif parts[0] == PACK:
                yield parts[1:]
            else:
                yield "!", parts[0]


@pytest.mark.parametrize("floor", MAY_IMPORT)
def test_imports_go_down(floor: str) -> None:
    files = list((ROOT / floor).rglob("*.py"))
    assert files
    for path in files:
        for imported in imports(path):
            allowed = imported[:1] == ("!",) or (imported and imported[0] in {floor, *MAY_IMPORT[floor]})
            assert allowed, f"{path.relative_to(ROOT)}: {'.'.join(imported) or PACK}"


def test_the_method_is_torch_alone() -> None:
    for path in (ROOT / "sampler" / "method").rglob("*.py"):
        for imported in imports(path):
            plain = imported[:1] == ("!",) and imported[1] in {"torch", *sys.stdlib_module_names}
            assert plain or imported[:2] == ("sampler", "method"), (
                f"{path.relative_to(ROOT)}: {'.'.join(imported) or PACK}"
            )
