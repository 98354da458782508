"""Through a real server: files that changed on disk are read again, and a conversion is done again when needed."""

from pathlib import Path

import pytest
from generative_inbetweening.tools.run_workflow import WorkflowFailed


def conversion(**inputs) -> dict:
    """The API form of Convert Backward Motion Weights, with a node that shows its result."""
    return {
        "1": {
            "class_type": "InbetweenConvertBackwardMotion",
            "inputs": {
                "base": "tiny-svd/",
                "fine_tuned": "tiny-svd-reverse-motion/",
                "file_name": "again",
                "precision": "fp16",
                "overwrite": False,
                **inputs,
            },
        },
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }


def state(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def test_conversion_runs_when_its_file_is_gone_or_replaced_and_not_otherwise(server):
    path = server.base / "models" / "backward_motion" / "again.safetensors"
    server.run(conversion())
    first = state(path)
    server.run(conversion())
    assert state(path) == first is not None
    path.unlink()
    server.run(conversion())
    second = state(path)
    assert second is not None
    server.run(conversion(allow_other_base=True, overwrite=True))
    path.write_bytes(b"something else")
    server.run(conversion(allow_other_base=True, overwrite=True))
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "x" * 100_000])
def test_a_hostile_name_leaves_the_server_working(server, name):
    load = {
        "1": {"class_type": "InbetweenLoadSVD", "inputs": {"model_name": name}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    for workflow in (load, conversion(file_name=name)):
        with pytest.raises(WorkflowFailed) as caught:
            server.run(workflow)
        assert "model_name" in str(caught.value) or "file_name: expected a plain name" in str(caught.value)
    server.run(conversion(file_name="after", overwrite=True))
