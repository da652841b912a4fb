"""Networks whose depth changes from input to input, or in training."""
