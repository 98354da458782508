"""Match Keyframes: ends that are the pictures, and what becomes of the frames beside them."""
