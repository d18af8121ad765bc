"""NRI at the node: pods and containers as plugins see them, and what plugins ask for carried out. The plugins themselves: orlop.nri."""
