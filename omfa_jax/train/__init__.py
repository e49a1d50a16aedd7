"""Training: state, optimizer, one jitted step, checkpoints, logs, and the loop."""
