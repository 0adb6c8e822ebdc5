"""What changes a model's file format, precision or source framework; one target per file."""
