"""What a run reports: metrics, goodput, MFU, images and profiles."""
