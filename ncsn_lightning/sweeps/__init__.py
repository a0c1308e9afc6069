"""The life of a sweep: its folder, who trains which job, what is left to do. Nothing here imports torch."""
