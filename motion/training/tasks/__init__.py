"""What a trainer can train, one file a kind of task."""
