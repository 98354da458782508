"""What a video looks like and how it changes: a contact sheet, plots, measures."""
