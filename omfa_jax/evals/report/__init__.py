"""The evaluation report: one HTML page, LaTeX and CSV tables."""
