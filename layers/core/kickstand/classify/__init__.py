"""From an uploaded photo to a decision: prepare it, ask the model, apply the policy."""
