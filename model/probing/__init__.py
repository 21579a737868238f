"""A look inside a trained encoder: what its embeddings and states hold, where it looks, and what it uses.

Rooms, each above those before: `truth` (what a problem's tokens stand for, exactly), `problems` (what is asked),
`states` (hidden states by hooks), `geometry`, `kappa`, `decoders` (probes), `attention`, `interventions`, `series`
(along training), `study` (all of it for one run).
"""
