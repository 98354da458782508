"""Keyframes inside a clip, beside two keyframes alone and beside two segments, in every strategy."""
