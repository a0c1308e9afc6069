"""Helpers that know nothing of scores: validation, randomness, files written whole, the lease, signals, bars."""
