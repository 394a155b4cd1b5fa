"""Helpers of the tests: models, applications, servers, clients and image files."""
