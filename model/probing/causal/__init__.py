"""Causal questions: what changes in the answer if a state, a head or the symbolic unit is edited."""
