"""What a run leaves on disk: its folder, its lineage, its models."""
