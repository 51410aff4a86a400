"""What a launch is made of: configurations for each family of devices, and the device itself."""
