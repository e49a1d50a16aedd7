"""Bodies as pose networks dump them, one module a tool; `sources.SOURCES` lists them."""
