"""What became of a video: a contact sheet, plots, measures."""
