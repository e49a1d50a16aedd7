"""What a training step costs on a given machine: FLOPs, memory, traffic, compiled programs."""
