"""The host's services, one subject a file; nothing else of ours asks the host for them."""
