"""FaMUS (Xu et al., CVPR 2021, arXiv 2104.15092) and the methods for noisy labels that it is compared with.

FaMUS is Meta-Weight-Net (`mw_net.py`) whose meta gradient (`meta_gradient.py`) flows through a few layers that learned
gates (`gates.py`) keep open.
"""
