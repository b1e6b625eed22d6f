"""The modalities: each folder is one, and imports `core` alone, never a sibling."""
