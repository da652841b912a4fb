"""Shapes: query points inside and outside, points on the surface, voxels and images."""
