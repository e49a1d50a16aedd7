"""Sampling: encode the given images, denoise, decode, for every task."""
