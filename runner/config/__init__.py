"""Compose configs, check them and address runs."""
