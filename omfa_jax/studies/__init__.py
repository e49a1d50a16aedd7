"""Scaling studies: planning and running them, and fitting laws to their results."""
