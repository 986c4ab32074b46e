"""Sources: one module each, raw data in, a MEDS dataset out."""
