"""What is delivered beside the code: units, images, wheels."""
