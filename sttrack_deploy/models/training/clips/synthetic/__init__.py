"""Photographs set in motion: clips with exact truth, made as batched tensor operations."""
