"""Server processes: the supervisor, its workers, sockets, signals, and Ray Serve."""
