"""Data sets: the record schema, builders for raw folders, the synthetic world, the input pipeline."""
