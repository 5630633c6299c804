"""Branches and loops as calls of a graph: run, batched, pushed forward, pulled back."""
