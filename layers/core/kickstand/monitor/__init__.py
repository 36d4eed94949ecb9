"""Whether the photos have drifted, and how often the predictions are correct."""
