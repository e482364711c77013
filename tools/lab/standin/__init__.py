"""A STAND-IN for SanteDB's iCDR host, for rehearsing deployments. It is not SanteDB; see README.md beside this file."""
