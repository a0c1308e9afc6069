"""Evaluation of a trained run: its samples, its errors, and which part of the method each error comes from."""
