"""Memory plans, which `--plan` prints beforehand from headers and configs alone; one file a command."""
