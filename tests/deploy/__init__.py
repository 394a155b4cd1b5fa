"""The compose files (`make containers`) and the service on Ray (`make cluster`), under load."""
