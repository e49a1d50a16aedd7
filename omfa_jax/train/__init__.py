"""Training: state, optimizer, one jitted step, checkpoints, logs, and the loop that tells it all."""
