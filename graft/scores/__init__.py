"""How much each weight matters: one small file a score, for localization and for importance, and their gradients."""
