"""ComfyUI-GenerativeInbetweening: two pictures go in, the video between them comes out."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The pack's nodes, for ComfyUI."""
    from comfy_api.latest import ComfyExtension

    from .nodes import NODES
    from .weights.host_paths import register_backward_motion_folder

    class GenerativeInbetweening(ComfyExtension):
        async def get_node_list(self):
            return NODES

    register_backward_motion_folder()
    return GenerativeInbetweening()
