"""Scaling studies; they begin with what a step costs."""
