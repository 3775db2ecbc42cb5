"""Several processes behind one port: one that accepts connections and gives them away, and those that serve them."""
