"""Where each upload has ended, and which ones are missing."""
