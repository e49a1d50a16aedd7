"""Checkpoints: save, verify, restore, retain, and read as weights."""
