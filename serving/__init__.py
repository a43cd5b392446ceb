"""Serving: the embedded development server, and what it shares with TensorFlow Serving."""
