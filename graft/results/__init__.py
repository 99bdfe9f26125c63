"""Results of a run: one layout, one typed schema, written by recipes and read by report, hub and tests."""
