"""Run over several processes: launchers, ranks, messages between them, sharded weights, seeds side by side."""
