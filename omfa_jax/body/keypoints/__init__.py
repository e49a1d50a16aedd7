"""2D keypoints of people, as pose detectors write them."""
