"""The load generator: a client-side room that knows nothing of the server."""
