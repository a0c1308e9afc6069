"""What is asked of a trained run: samples, how wrong it is, and whose fault that is."""
