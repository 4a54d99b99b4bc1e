"""Who may do what, how often, and what was done: keys, access, rates, the audit log, and writes that are not done twice."""
