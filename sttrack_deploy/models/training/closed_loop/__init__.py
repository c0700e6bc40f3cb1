"""Training in closed loop: every crop follows the network's own box of the frame before."""
