"""`omfa <command>`: flags to settings to one call. Only this layer knows everybody's settings."""
