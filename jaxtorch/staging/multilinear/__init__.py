"""The multilinear optimizer: graphs rewritten through einsum normal form."""
