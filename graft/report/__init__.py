"""What finished runs look like: plots, and one page."""
