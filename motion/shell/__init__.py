"""The shell, `motionblocks`: one verb a task. It alone prints."""
