"""HTTP middleware: request lifecycle, admission, CORS, and problem details, whatever the endpoint."""
