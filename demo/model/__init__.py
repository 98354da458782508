"""The training of the demo's model from scratch."""
