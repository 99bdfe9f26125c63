"""Plots, one file each; the only place that imports matplotlib."""
