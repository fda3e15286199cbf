"""ReLU features on the circle: the particle and population runs, their limit, and the figures."""
