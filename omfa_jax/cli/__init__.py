"""`omfa <command>`: flags to settings to one call. No other layer knows all settings."""
