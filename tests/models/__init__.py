"""Whole models under the transforms: one file per family of models."""
