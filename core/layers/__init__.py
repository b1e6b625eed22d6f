"""Blocks that the networks of several modalities share; each module is imported by its own name."""
