"""The comparison benchmark: a plan of cases, the runner, and the tables and charts made of its results."""
