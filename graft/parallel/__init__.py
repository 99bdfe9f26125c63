"""One run over several processes: who they are, what they tell one another, how weights are spread over them."""
