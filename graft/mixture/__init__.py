"""Many skills on one resident model: every row of a batch with its own patch."""
