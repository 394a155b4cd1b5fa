"""HTTP layer of all endpoints: protocol, request lifecycle, authentication, admission, CORS and problem details."""
