"""Where clips come from: folders of video files, or the generator."""
