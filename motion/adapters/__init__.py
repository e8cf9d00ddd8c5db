"""Small differences beside a frozen network."""
