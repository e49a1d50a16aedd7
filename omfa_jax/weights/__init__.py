"""Weights in PyTorch's form and in ours: names, diffusers folders, prompts, comparisons."""
