"""Metrics, scores files and the pages that show them."""
