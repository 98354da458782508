"""Light-weight fine-tuning of backward-motion weights, with diffusers and accelerate; never imported by the nodes."""
