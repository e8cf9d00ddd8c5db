"""Schedules, solvers, guidance, residuals: functions of (model as a callable, latents, sigmas)."""
