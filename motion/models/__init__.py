"""Networks, an architecture a room, each built from one frozen dataclass; and what they share."""
