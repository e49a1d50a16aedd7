"""A vision-language model as judge: how well the picture shows the garment, from 0 to 10."""
