"""What two or more models share: embeddings, rotary positions, transforms, warps."""
