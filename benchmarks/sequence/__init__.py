"""Sequences: the jump of speed at the keyframe between two segments."""
