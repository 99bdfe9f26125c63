"""Algebra of skills: patches joined, reduced by one another, and compared; whole models fused."""
