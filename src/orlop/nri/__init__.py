"""NRI: plugins that watch pods and adjust containers. Framing, connections, the handshake, and the rules for joining several plugins' wishes.

Knows pods and containers only as NRI's messages; services/nri/ makes those and carries out what comes back.
"""
