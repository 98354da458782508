"""What the pack can be measured by: quality, work, speed and memory. Each folder answers one question.

Importing this package puts a real ComfyUI first on the path, so that each benchmark is run with the nodes in their host.
"""

from ..tools.host import import_host

import_host()
