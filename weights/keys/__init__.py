"""What the tensors of each network are called in diffusers' files and in ComfyUI."""
