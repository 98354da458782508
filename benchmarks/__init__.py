"""What the pack can be measured by; each folder with a `__main__` answers one question.

Importing this package puts a real ComfyUI first on the path: each benchmark is run with the nodes in their host.
"""

from ..tools.host import import_host

import_host()
