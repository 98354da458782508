"""The method as plain functions on tensors, each file like its paper: the equation, then the code. No import of the host."""
