"""A vision-language model that scores from 0 to 10 how well an image shows a garment."""
