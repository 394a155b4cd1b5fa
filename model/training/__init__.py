"""Training: objectives, schedules, the training loop, and what resumes it."""
