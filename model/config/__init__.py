"""Parameters of encoders, trainings, evaluations, comparisons and probing, as frozen pydantic models."""
