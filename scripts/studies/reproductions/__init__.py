"""One published experiment a file; each gives the lines of its section, tables and pictures, from a `Lab`."""
