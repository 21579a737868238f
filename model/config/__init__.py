"""All parameters of encoder, training, evaluation, comparison and probing, as frozen pydantic models."""
