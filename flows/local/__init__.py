"""The server, worker and deployments of this machine."""
