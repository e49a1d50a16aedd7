"""One file per protocol; each has one `PROTOCOL`. A new one: its file, and its name in the table of
`evals/protocol.py`."""
