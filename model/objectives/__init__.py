"""Training objectives: masked tokens, auxiliary losses, and the random numbers of a step."""
