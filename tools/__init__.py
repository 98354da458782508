"""What `dev.py` does: set up Python and ComfyUI inside the checkout, run the demo, the tests and the benchmarks."""
