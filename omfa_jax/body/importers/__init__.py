"""Importers of pose networks' output, one module per tool, and a table of them."""
