"""How fast the service is beside its peers and beside the limits of the machine."""
