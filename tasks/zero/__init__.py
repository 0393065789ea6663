"""Training of language models with hierarchically sharded states."""
