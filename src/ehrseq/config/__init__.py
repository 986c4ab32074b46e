"""Configuration: the schema every run is checked against, and its composition from `conf/`."""
