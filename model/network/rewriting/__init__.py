"""The encoder that rewrites an expression step by step: its inputs, its attention, its outputs."""
