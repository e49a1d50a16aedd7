"""Body parameters from 2D keypoints: the one part of `body` that computes with JAX."""
