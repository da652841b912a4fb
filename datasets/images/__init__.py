"""Data sets of labelled images for classification, held in memory as bytes."""
