"""Run over several processes: launchers, ranks, messages between them, and weights sharded over them."""
