"""Write locales/en/nodeDefs.json from the nodes' schemas: python -m generative_inbetweening.tools.update_english_locale

The host lets a locale, even the English one, override what the code says, so both must be in step.
"""

import json

from ..common.atomic_write import atomic_write
from .host import import_host
from .paths import CHECKOUT

ENGLISH = CHECKOUT / "locales" / "en" / "nodeDefs.json"


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
    import_host()
    from ..nodes import NODES
    from ..weights.folders import register_backward_motion_folder

    register_backward_motion_folder()
    with atomic_write(ENGLISH) as partial:
        partial.write_text(text_of(english(NODES)), encoding="utf-8")


if __name__ == "__main__":
    main()
