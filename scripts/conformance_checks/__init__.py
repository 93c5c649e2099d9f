"""Compares what moetap captures from a model with the model's oracle: see ../conformance."""
