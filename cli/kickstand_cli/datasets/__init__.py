"""Folders of labelled images: fetched, written, staged on S3 and checked. `kickstand dataset` is the way in."""
