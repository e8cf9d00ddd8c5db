"""How the shipped weights were made. May import motion; nothing shipped imports this."""
