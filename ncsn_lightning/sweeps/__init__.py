"""A sweep: its folder, its jobs, which process trains which job, and what is left to do. Nothing here imports torch."""
