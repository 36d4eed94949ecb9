"""What became of every upload."""
