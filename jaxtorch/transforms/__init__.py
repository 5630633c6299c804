"""What the user calls. No operator by name, no rule."""
