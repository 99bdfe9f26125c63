"""What YAML may say: every config block, typed and torch-free."""
