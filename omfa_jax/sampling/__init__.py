"""Sampling: encode the given images, denoise, and decode the generated ones, for every task."""
