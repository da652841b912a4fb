"""Quantization: binary, k-bit and int8 weights and activations."""
