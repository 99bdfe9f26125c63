"""Sharing patches: the model card, push, pull, a look from afar, and other tools' formats."""
