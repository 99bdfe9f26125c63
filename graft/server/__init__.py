"""One base with many skills, served over HTTP."""
