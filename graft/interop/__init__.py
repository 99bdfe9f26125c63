"""Formats of other tools: one small file of pure functions each, and a row in `registry`."""
