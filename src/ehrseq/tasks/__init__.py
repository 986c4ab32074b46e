"""Tasks: labels in the MEDS label schema."""
