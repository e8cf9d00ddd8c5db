"""The instructions that SANA's networks saw before every prompt in training; they act through attention alone.

Source: default argument `complex_human_instruction` of SanaPipeline ("image") and SanaVideoPipeline ("video") in
diffusers 0.42.1, Apache License 2.0; lines joined by newlines. Weights were trained with these very characters.
"""

from ..errors import ConfigError

MOTION_SCORE_MAX = 38  # of dynamics 19
_IMAGE = (
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image "
    "generation. Evaluate the level of detail in the user prompt:",
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
    "relationships to create vivid and concrete scenes.",
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.",
    "Here are examples of how to transform or refine prompts:",
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
    "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.",
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
    "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
    "skyscrapers.",
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary "
    "or evaluations:",
    "User Prompt: ",
)
_VIDEO = (
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for video "
    "generation. Evaluate the level of detail in the user prompt:",
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, motion, and temporal "
    "relationships to create vivid and dynamic scenes.",
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.",
    "Here are examples of how to transform or refine prompts:",
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat slowly settling into a curled position, "
    "peacefully falling asleep on a warm sunny windowsill, with gentle sunlight filtering through surrounding pots of "
    "blooming red flowers.",
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
    "lamps gradually lighting up, a diverse crowd of people in colorful clothing walking past, and a double-decker bus "
    "smoothly passing by towering glass skyscrapers.",
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary "
    "or evaluations:",
    "User Prompt: ",
)
INSTRUCTIONS = {"video": "\n".join(_VIDEO), "image": "\n".join(_IMAGE), "none": ""}


def instruction_name(text: str) -> str:
    """Key of INSTRUCTIONS for this text, "own" for any other."""
    return next((name for name, known in INSTRUCTIONS.items() if known == text), "own")


def with_motion_score(prompt: str, dynamics: int) -> str:
    """The prompt with SANA-Video's motion score behind it, 2 x dynamics, as diffusers' example writes it.

    Raises ConfigError for dynamics outside 0 to 19.
    """
    if isinstance(dynamics, bool) or not isinstance(dynamics, int) or not 0 <= 2 * dynamics <= MOTION_SCORE_MAX:
        raise ConfigError(f"dynamics is {str(dynamics)[:60]}; it must be 0 to {MOTION_SCORE_MAX // 2}")
    return f"{prompt.strip()} motion score: {2 * dynamics}."
