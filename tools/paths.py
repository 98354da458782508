"""Where everything lies. What dev.py writes is inside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PACK_NAME = "ComfyUI-GenerativeInbetweening"
# Of the module at the root under which Python imports the pack.
IMPORT_NAME = "generative_inbetweening"

DEMO = CHECKOUT / "demo"
DEMO_OUTPUT = CHECKOUT / "demo_output"
DEMO_WORKFLOW = CHECKOUT / "workflows" / "api" / "generative_inbetweening.json"
SERVE_TEMPLATE = "generative_inbetweening"
BENCHMARKS = CHECKOUT / "benchmarks"
BENCHMARK_OUTPUT = CHECKOUT / "benchmark_output"

ENVIRONMENT = CHECKOUT / ".venv"
COMFYUI = CHECKOUT / ".comfyui"
STATE = CHECKOUT / ".dev"
LOCK = STATE / "lock"
SETUP_LOG = STATE / "setup.log"
PIP_CACHE = STATE / "pip-cache"
TEMPORARY = STATE / "tmp"
RUNS = STATE / "runs"
TEST_ENVIRONMENT = STATE / "test-environment"
# ComfyUI's --base-directory: custom_nodes, models, input, output and user live here, never in ComfyUI's own folder.
BASE = STATE / "base"
MODEL_PATHS = BASE / "extra_model_paths.yaml"

COMFYUI_REQUIREMENT = CHECKOUT / "requirements-comfyui.txt"
HOST_REQUIREMENTS = CHECKOUT / "requirements-host.txt"
DEV_REQUIREMENTS = CHECKOUT / "requirements-dev.txt"
BENCHMARK_REQUIREMENTS = CHECKOUT / "requirements-benchmark.txt"


def environment_python(environment: Path) -> Path:
    """The Python of a virtual environment, whether it exists or not."""
    return environment / "Scripts" / "python.exe" if os.name == "nt" else environment / "bin" / "python"
