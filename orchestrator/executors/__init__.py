"""Where trials run: in this process or in Ray workers, behind one interface."""
