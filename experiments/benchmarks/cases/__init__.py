"""What is measured, one subject a file: `run(sizes) -> Results`."""
