"""Passes over a staged graph: each takes a graph and leaves an equal, cheaper one."""
