"""Words and small tools that every layer shares: tasks, errors, files, images, trees."""
