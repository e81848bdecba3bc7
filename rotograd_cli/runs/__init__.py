"""One run: built, trained, saved, read again."""
