"""Compact networks and transferred filters."""
