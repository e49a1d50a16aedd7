"""The Grain input pipeline: records to batches."""
