"""Which skill a request belongs to that names none: the texts that each skill knows, and when to abstain."""
