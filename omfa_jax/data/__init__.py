"""Data sets: the record schema, builders for raw folders, a synthetic world, the pipeline."""
