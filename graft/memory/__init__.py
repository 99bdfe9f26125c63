"""Memory: what a command will take, told beforehand by `--plan` from headers and configs alone; one file a command."""
