"""The English locale: python tests/update_english_locale.py writes what the schemas say to locales/en/nodeDefs.json.

The host lets a locale, even the English one, override what the code says, so both must be in step.
"""

import json
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"


def english(nodes: list) -> dict[str, dict]:
    """The content of nodeDefs.json for V3 node classes, in the order of their inputs and outputs."""
    content = {}
    for schema in (node.define_schema() for node in nodes):
        inputs = {item.id: _words(item.display_name or item.id, item.tooltip) for item in schema.inputs}
        outputs = {
            str(index): _words(item.display_name or item.get_io_type(), item.tooltip)
            for index, item in enumerate(schema.outputs)
        }
        content[schema.node_id] = {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": inputs,
            "outputs": outputs,
        }
    return content


def _words(name: str, tooltip: str) -> dict[str, str]:
    return {"name": name, "tooltip": tooltip}


def text_of(content: dict) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def main() -> None:
    from generative_inbetweening.tools.import_host import import_host

    import_host()
    from generative_inbetweening.nodes import NODES
    from generative_inbetweening.weights.folders import register_backward_motion_folder

    register_backward_motion_folder()
    ENGLISH.parent.mkdir(parents=True, exist_ok=True)
    partial = ENGLISH.with_suffix(".partial")
    partial.write_text(text_of(english(NODES)), encoding="utf-8")
    os.replace(partial, ENGLISH)


if __name__ == "__main__":
    main()
