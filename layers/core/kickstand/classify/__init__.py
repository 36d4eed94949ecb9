"""From an uploaded photo to a decision: prepare it, run the model, apply the policy."""
