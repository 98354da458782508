"""A small world of cut-outs that fly, and the truth about every one of them."""
