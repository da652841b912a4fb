"""CalibrationPhys (Akamatsu et al., IEEE JBHI 2024): heart and respiratory rate, calibrated between cameras."""
