"""A world that is known exactly: people who wear any garment in any pose, and photos of them."""

from omfa_jax.data.world.photo import Photo, View, World
from omfa_jax.data.world.writer import WorldReport, write_world

__all__ = ["Photo", "View", "World", "WorldReport", "write_world"]
