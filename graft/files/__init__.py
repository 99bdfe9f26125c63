"""Files: outputs written whole or not at all, where models and patches are, what their headers say. No torch here."""
