"""The method: dual-directional sampling of Wang et al., arXiv 2408.15239, as plain functions on tensors."""
