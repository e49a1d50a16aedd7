"""Experiment configurations: `base` lists every value, the others change a few of them."""
