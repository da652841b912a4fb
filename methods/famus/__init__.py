"""FaMUS (Xu et al., CVPR 2021): meta-learned sample weights for noisy labels, by a gradient through few layers."""
