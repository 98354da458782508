"""Files and names: diffusers ↔ ComfyUI keys, SVD folders and checkpoints, backward-motion files."""
