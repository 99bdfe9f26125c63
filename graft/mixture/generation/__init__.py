"""Generation of many skills together: rows join and leave between tokens, and share what skills leave the same."""
