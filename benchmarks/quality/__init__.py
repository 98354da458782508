"""Quality of the frames in between, beside other methods."""
