"""Labelled images for classification, held in memory as bytes."""
