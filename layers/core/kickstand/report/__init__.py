"""The pages that people read in a browser, and their figures."""
