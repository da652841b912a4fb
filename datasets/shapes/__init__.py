"""Solid shapes: points that lie inside or outside, points on the surface, voxels and pictures of them."""
