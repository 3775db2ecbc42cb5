"""An engine that gives its inputs back."""
