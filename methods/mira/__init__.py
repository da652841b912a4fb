"""MIRA / Neural Dehydration (Lu et al., CCS 2024): removal of black-box watermarks, with schemes and attacks."""
