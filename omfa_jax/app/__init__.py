"""The web page: two photos in, pictures out (`omfa app`)."""
