"""Faults of records and duplicates among photos."""
