"""The files of a run: its folder, its lineage (the record of its stages) and its models."""
