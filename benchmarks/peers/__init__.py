"""The same work in other serving frameworks, each in its best setting for it."""
