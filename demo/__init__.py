"""The demo: keyframes, weights, the small world that they come from, and how its model was trained."""
