"""Starts trainings: several in processes of one machine, or one on the workers of a Ray cluster."""
