"""On a ComfyUI that lacks what the nodes need, the console says so in one sentence; elsewhere the import is quiet.

The real host loads the pack, after what an older one lacks was taken from it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from generative_inbetweening.tools.server import link_pack, remove_link

ROOT = Path(__file__).resolve().parents[2]
HOST = Path(os.environ.get("INBETWEEN_COMFYUI", ROOT / ".comfyui")).resolve()
# What the host lacks or says, as Python that takes it away.
LACKS = {
    "nothing": "",
    "the API": "sys.modules.update({'comfy_api': None, 'comfy_api.latest': None})",
    "the newest API": "sys.modules['comfy_api.latest'] = None",
    "extensions": "del latest.ComfyExtension",
    "node types": "del latest.io",
    "pictures on nodes": "del latest.ui",
    "a type of inputs": "latest.io = types.SimpleNamespace(**{k: v for k, v in vars(io).items() if k != 'Guider'})",
    "an argument": "latest.io = types.SimpleNamespace(**{**vars(io), 'Schema': lambda node_id: None})",
    "days": "comfyui_version.__version__ = '0.3.60'",
    "a version": "sys.modules.update({'comfy_api': None, 'comfy_api.latest': None, 'comfyui_version': None})",
    "a readable version": "comfyui_version.__version__ = 'nightly'",
}
LOAD = """
import asyncio, json, logging, sys, types
host, pack, cases = json.loads(sys.argv[1])
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, host)
import comfy.options
comfy.options.enable_args_parsing()
import comfyui_version, nodes
from comfy_api import latest
io, ui, extension = latest.io, latest.ui, latest.ComfyExtension
modules, version, answers = dict(sys.modules), comfyui_version.__version__, {}
before = set(nodes.NODE_CLASS_MAPPINGS)
lines = []
keep = logging.Handler()
keep.emit = lambda record: lines.append(record.getMessage())
logging.getLogger().addHandler(keep)
for name, code in cases.items():
    exec(code)
    del lines[:]
    loaded = asyncio.run(nodes.load_custom_node(pack))
    answers[name] = [loaded, sorted(set(nodes.NODE_CLASS_MAPPINGS) - before), list(lines)]
    for node in set(nodes.NODE_CLASS_MAPPINGS) - before:
        del nodes.NODE_CLASS_MAPPINGS[node]
    for module in [module for module in sys.modules if module not in modules]:
        del sys.modules[module]
    sys.modules.update(modules)
    latest.io, latest.ui, latest.ComfyExtension, comfyui_version.__version__ = io, ui, extension, version
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, list]:
    """{what is lacking: [whether the host took the pack, its nodes, the lines on the console]}"""
    pack = tmp_path_factory.mktemp("custom_nodes") / "generative-inbetweening"
    link_pack(pack)
    arguments = json.dumps([str(HOST), str(pack), LACKS])
    done = subprocess.run([sys.executable, "-c", LOAD, arguments], capture_output=True, text=True, timeout=240)
    remove_link(pack)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def sentences(lines: list[str]) -> list[str]:
    return [line for line in lines if "0.3.75" in line]


@pytest.mark.install
@pytest.mark.parametrize("lacking", [name for name in LACKS if name not in ("nothing", "days", "a readable version")])
def test_one_sentence_says_which_version_is_needed(answers, lacking):
    loaded, nodes, lines = answers[lacking]
    assert not loaded and not nodes
    (sentence,) = sentences(lines)
    assert sentence.startswith("ComfyUI-GenerativeInbetweening") and "\n" not in sentence
    assert "0.3.75 or newer" in sentence and "Nothing else" in sentence
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.install
def test_an_older_host_that_takes_the_nodes_is_named(answers):
    loaded, nodes, lines = answers["days"]
    assert loaded and len(nodes) >= 10
    (sentence,) = sentences(lines)
    assert "0.3.75 or newer" in sentence and "0.3.60" in sentence


@pytest.mark.install
@pytest.mark.parametrize("lacking", ["nothing", "a readable version"])
def test_nothing_is_said_where_nothing_is_lacking(answers, lacking):
    loaded, nodes, lines = answers[lacking]
    assert loaded and len(nodes) >= 10
    assert not lines


def test_import_without_a_host_is_quiet():
    script = (
        "import importlib.util, logging, sys; logging.basicConfig(level=0)\n"
        f"spec = importlib.util.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r}, "
        f"submodule_search_locations=[{str(ROOT)!r}])\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['pack'] = module\n"
        "spec.loader.exec_module(module)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_importing_the_pack_is_quick_and_brings_no_training_library():
    script = (
        "import sys; sys.path.insert(0, {host!r}); sys.argv = ['x', '--cpu']\n"
        "import comfy.options; comfy.options.enable_args_parsing()\n"
        "import comfy.sd, latent_preview, comfy_api.latest, folder_paths, nodes\n"
        "before = set(sys.modules)\nimport importlib.util, asyncio\n"
        "spec = importlib.util.spec_from_file_location('pack', {pack!r} + '/__init__.py', "
        "submodule_search_locations=[{pack!r}])\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['pack'] = module\n"
        "spec.loader.exec_module(module); asyncio.run(module.comfy_entrypoint())\n"
        "new = set(sys.modules) - before\n"
        "print(sorted({{name.split('.')[0] for name in new}} & {{'diffusers', 'transformers', 'accelerate'}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script.format(host=str(HOST), pack=str(ROOT))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
