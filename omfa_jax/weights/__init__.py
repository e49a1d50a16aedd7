"""Conversion of weights between PyTorch and JAX: names, model folders, prompts, comparison."""
