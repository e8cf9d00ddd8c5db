"""Files of any kind: atomic writing, safetensors, text, names; what others are built on."""
