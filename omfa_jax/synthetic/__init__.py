"""The synthetic try-on world: people, garments and poses, rendered with exact ground truth."""

from omfa_jax.synthetic.world import RenderedPhoto, View, World
from omfa_jax.synthetic.world_writer import WorldReport, write_world

__all__ = ["RenderedPhoto", "View", "World", "WorldReport", "write_world"]
