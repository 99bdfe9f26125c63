"""Where weights come from beside plain folders: adapters on a base, and live models."""
