"""Run over several processes: launchers, ranks, messages between them, weights sharded over them, seeds side by side."""
