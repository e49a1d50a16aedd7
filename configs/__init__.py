"""Experiment configurations: `base` names every knob, the others change a few lines."""
