"""ESVAE: An Efficient Spiking Variational Autoencoder with Reparameterizable Poisson Spiking Sampling (Zhan et al.)."""
