"""Tests under load that take minutes: `make chaos` and `make soak`."""
