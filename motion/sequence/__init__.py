"""A reference picture, skeleton frames and the frames to make as one sequence, as FramePrompt has it."""
