"""Saccade's server: what runs in production, and the client that talks to it. Never imports torch or onnx."""
