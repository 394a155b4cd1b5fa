"""The REST interface of the service: endpoints, schemas, request bodies, responses, and the OpenAPI document."""
