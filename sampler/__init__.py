"""Sampling in ComfyUI: what the host's guider, samplers and UNet do with the method."""
