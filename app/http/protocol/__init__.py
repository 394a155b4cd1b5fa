"""HTTP/1.1 connections: uvicorn's protocol with limits, flow control, and one request at a time."""
