"""What a mask is made of: its dimensions, its rank, and the texts that it changes."""
