"""Experiments on planted truth: a skill in a known mask, a drift over all weights, and which score finds the mask."""
