"""Refit: values of a chosen support, fitted to the tuned model's outputs."""
