"""Training: needs PyTorch (`make train` installs it), which nothing else in Kickstand does."""
