"""The MEDS contract: columns, types, files, splits."""
