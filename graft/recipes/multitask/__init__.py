"""Experiments over several tasks on one base: trained apart, at once, in turn, fused, and as grafts side by side."""
