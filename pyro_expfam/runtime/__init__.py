"""The program that the package runs in: Pyro's store and handlers, and whoever watches."""
