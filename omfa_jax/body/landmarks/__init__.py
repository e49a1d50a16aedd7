"""Landmarks of people in photos: BlazePose's networks, run by numpy."""

from omfa_jax.body.landmarks.landmark_names import LANDMARK_INDEX, LANDMARK_NAMES
from omfa_jax.body.landmarks.person_landmarks import PersonLandmarks, find_people, find_person

__all__ = ["LANDMARK_INDEX", "LANDMARK_NAMES", "PersonLandmarks", "find_people", "find_person"]
