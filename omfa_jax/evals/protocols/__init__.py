"""Evaluation protocols, one file with one `PROTOCOL` each, listed in `evals/protocol_spec.py`."""
