"""Schedules, solvers, guidance, residuals, places of frames: functions of (model as a callable, latents, sigmas)."""
