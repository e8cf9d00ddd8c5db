"""The only room that opens weight, state and media files; every write goes through `atomic`."""
