"""A video through many keyframes: its plan, its run, and finished segments on disk."""
