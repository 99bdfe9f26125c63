"""Formats 1 and 2 of patch and mask files: the only reader and the only writer."""
