"""Libraries of C functions whose algorithms are called by name."""
