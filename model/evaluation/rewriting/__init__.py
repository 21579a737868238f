"""Answers by rewriting: the loop, the trace of an expression, and the evaluation of its steps."""
