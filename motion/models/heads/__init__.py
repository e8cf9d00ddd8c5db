"""What stands behind a network's last layer, and the built-in latent space it speaks."""
