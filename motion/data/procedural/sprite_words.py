"""What sprites can be and do, by word. Captions are made of these words, and of nothing else."""

from collections.abc import Sequence

SIZES = ("small", "large")  # between the two no word is said
COLOURS = {
    "red": (0.86, 0.10, 0.10), "yellow": (0.96, 0.84, 0.12), "green": (0.08, 0.58, 0.20), "blue": (0.14, 0.26, 0.88),
    "purple": (0.56, 0.16, 0.66), "white": (0.98, 0.98, 0.98), "black": (0.04, 0.04, 0.05),
}  # fmt: skip
TEXTURES = ("striped", "spotted")  # else plain, which no word is said for
SHAPES = ("ball", "box", "triangle", "ring", "cross")
GROUNDS = ("sand", "grass", "snow", "night", "sky", "bricks")
PLACED = {"night": "at night", "sky": "in the sky"}  # the others: "on sand"
MOTIONS = {
    "still": "stands still", "left": "moves left", "right": "moves right", "up": "moves up", "down": "moves down",
    "bounce": "bounces", "orbit": "orbits", "spin": "spins", "grow": "grows", "shrink": "shrinks",
}  # fmt: skip
# Motions that no training of a shipped model sees: what is left for tests of learning a new one.
HELD_BACK = ("arc", "corner", "stairs", "return", "pendulum", "spiral")
FAINT = {  # colour and ground that a viewer cannot tell apart
    ("green", "grass"), ("white", "snow"), ("black", "night"), ("blue", "night"), ("purple", "night"),
    ("yellow", "sand"), ("white", "sky"), ("red", "bricks"), ("purple", "bricks"),
}  # fmt: skip


def faint_pair(words: Sequence[str]) -> tuple[str, str] | None:
    """Colour and ground among the words that no clip was drawn with, since they cannot be told apart."""
    return next((pair for pair in sorted(FAINT) if set(pair) <= set(words)), None)


def caption_of(
    colour: str, shape: str, *, size: str = "", texture: str = "", ground: str = "", motion: str = ""
) -> str:
    """A caption such as "small red striped ball, on sand, moves left"; what is empty is left out."""
    look = " ".join(word for word in (size, colour, texture, shape) if word)
    place = ground and PLACED.get(ground, f"on {ground}")
    return ", ".join(part for part in (look, place, MOTIONS.get(motion, "")) if part)
