"""Pictures from pictures: encode, denoise, decode, for every task."""
