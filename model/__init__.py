"""The Variational Autoencoder of Kingma and Welling (2014), line by line, in nats, higher is better."""
