"""Training: features by the frozen backbone, a linear head on them, and what the deployed training needs."""
