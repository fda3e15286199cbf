"""ReLU features on the circle: the particle and population runs, and their limit."""
