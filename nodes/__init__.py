"""The only room that knows ComfyUI: check, convert, call the library, convert back."""
