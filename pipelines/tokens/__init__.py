"""Converts text to token ids: vocabularies and encoding."""
