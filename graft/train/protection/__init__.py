"""Core regions that training leaves bitwise as they are, under any torch optimizer."""
