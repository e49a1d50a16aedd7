"""Data sets: builders from raw folders to records, records on disk, and the input pipeline."""
