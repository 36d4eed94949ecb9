"""`kickstand dataset`: folders of labelled photos are fetched, written, copied to S3 and checked."""
