"""SANA-Video: network, sizes, and what is known of the published weights."""
