"""Evaluations: a fixed dataset through the real pipeline, scored, compared, gated."""
