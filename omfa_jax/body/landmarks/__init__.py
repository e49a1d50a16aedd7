"""Landmarks of people in photos: BlazePose's networks, run by numpy."""
