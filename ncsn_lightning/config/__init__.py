"""The configuration: composed by Hydra, kept as plain data, checked, built into objects, and explained where wrong."""
