"""What the model and its policy decide about a photo, and why."""
