"""How much and which way a clip moves: similarity, dynamics degree, optical flow."""
