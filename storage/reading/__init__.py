"""Reading for training: which rows each rank reads, in which order, and the reader."""
