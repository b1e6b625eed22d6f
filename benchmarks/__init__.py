"""Measurements: speed beside other libraries, quality at equal CPU time, and every modality's quality against NFE."""
