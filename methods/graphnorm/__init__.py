"""GraphNorm: A Principled Approach to Accelerating Graph Neural Network Training (Cai et al., ICML 2021)."""
