"""Importance of weights to what a model knows, measured and recorded, and files of it."""
