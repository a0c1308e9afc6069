"""What everything else rests on and what knows nothing of scores: validation, randomness, whole files, signals."""
