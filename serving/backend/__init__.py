"""What runs inside Triton: copied into each version folder, so it imports nothing of Bantam but itself, relatively."""
