"""C for the CPU: what of a graph runs as loops, how they are written and compiled."""
