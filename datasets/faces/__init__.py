"""Faces on video: maps of colour and motion over time, from several cameras at once, with pulse and respiration."""
