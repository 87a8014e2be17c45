"""What all layers use: errors, options, messages, and what the environment says."""
