"""SMPL-X bodies: parameters, body files, cameras, meshes, rendering, import and fitting."""
