"""Builders: raw data sets to records, one file per data set."""
