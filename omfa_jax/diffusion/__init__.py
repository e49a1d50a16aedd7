"""Partial diffusion: schedule, canvas, corruption, loss, guidance and the sampling loop.

Pure functions of arrays; the network is passed in as a function. docs/method.md has the equations.
"""
