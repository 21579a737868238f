"""Work on a Ray cluster that others started: joining it, and sending it jobs."""
