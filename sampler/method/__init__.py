"""The method on plain tensors, each file like its paper: the equation, then the code. Nothing here imports the host."""
