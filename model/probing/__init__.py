"""Interpretability of a trained encoder: the content of embeddings and hidden states, attention, and causal edits.

Modules, from the lowest layer upwards: `labels` (exact labels of tokens), `sampling` (problems), `hooks` (hidden
states), `token_dataset`, `geometry`, `kappa`, `probes`, `attention`, `causal` (edits of the running encoder),
`tables`, `study` (all tables of one run), `rewriting` (the same for an encoder that rewrites),
`probe_run` (stores the tables), `over_training` (measures over checkpoints).
"""
