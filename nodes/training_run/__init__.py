"""A training inside the host: settings, folders, encoders, what the page sees."""
