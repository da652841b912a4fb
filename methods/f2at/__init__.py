"""F2AT (Qian et al. 2023), reconstructed, and the adversarial training methods it is compared with."""
