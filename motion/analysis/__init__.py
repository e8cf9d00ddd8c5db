"""What networks do inside, told from their own numbers."""
