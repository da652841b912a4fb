"""Occupancy Networks: Learning 3D Reconstruction in Function Space (Mescheder et al., CVPR 2019, arXiv 1812.03828)."""
