"""Poses of people: read, cleaned, fitted to another body, drawn."""
