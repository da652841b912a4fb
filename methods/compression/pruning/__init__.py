"""Pruning: weights, filters, channels, and its controls."""
