"""The sweep: from a budget to a plan, its runs, their loss table and the answer."""
