"""Review: which photos, by which reviewer, and what happens with the answer."""
