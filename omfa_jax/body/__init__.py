"""SMPL-X bodies: parameters and their files, cameras, the posed mesh, and pictures of it."""
