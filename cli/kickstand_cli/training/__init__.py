"""Training: needs PyTorch (`pip install 'kickstand[train]'`), which nothing else in Kickstand does."""
