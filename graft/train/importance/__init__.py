"""What a model knows lies where: importance of weights, and files of it."""
