"""OptFeature (Lyu et al., NeurIPS 2023): which interactions of features a click-through-rate model uses."""
