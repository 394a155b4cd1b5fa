"""The commands of `vae`: their options. The modules that do the work are imported when a command runs."""
