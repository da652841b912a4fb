"""F2AT (Qian et al. 2023), reconstructed from its abstract, and other methods of adversarial training."""
