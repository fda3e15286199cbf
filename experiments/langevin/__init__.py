"""Mean-field Langevin dynamics of tanh networks: densities, particles, Gibbs measures."""
