"""Sequences: the jump of speed at a keyframe, and what preview and report cost."""
