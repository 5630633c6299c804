"""Runnable examples; each is a module with a main(argv) and a --tiny option."""
