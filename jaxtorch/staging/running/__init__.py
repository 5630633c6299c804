"""How a staged graph runs: generated code, back ends, memory. No pass over a graph."""
