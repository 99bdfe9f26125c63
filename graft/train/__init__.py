"""Fine-tuning, plain, by several tasks, with protection, penalties and adapters."""
