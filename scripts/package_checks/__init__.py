"""Small models of public MoE packages, whose routers moetap must record as the packages' own code runs them."""
