"""Format 1 of patch and mask files: the only reader and the only writer."""
