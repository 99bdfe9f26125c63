"""Sharing of patches on the Hub: model card, push, pull, and checks by remote headers."""
