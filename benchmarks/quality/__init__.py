"""How good the in-between frames are, beside other methods."""
