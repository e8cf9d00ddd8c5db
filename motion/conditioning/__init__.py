"""What a sampling run is steered by: refined noise, motion bucket."""
