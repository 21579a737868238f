"""The families that teach an encoder to rewrite: states of expressions with marks, and single operations."""
