"""Whether the input has drifted, and how often the answers are right."""
