"""A REST service around one trained Variational Autoencoder."""
