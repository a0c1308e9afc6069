"""One run: built, trained, resumed, summed up, and loaded again."""
