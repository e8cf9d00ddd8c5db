"""Photos in, videos in and out. Media libraries are imported late."""
