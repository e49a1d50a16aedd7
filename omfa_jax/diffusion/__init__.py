"""Partial diffusion: schedule, canvas, corruption, loss, guidance and the sampling scan.

Pure functions of arrays; the network arrives as a function.
"""
