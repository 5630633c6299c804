"""Tests of the multilinear optimizer."""
