"""The algebra of skills: patches joined, taken from one another, and laid over each other; whole models fused."""
