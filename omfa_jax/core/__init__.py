"""What every layer uses: the task table, errors, files, images and trees."""
