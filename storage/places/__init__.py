"""Files of a local disk and of object stores, behind one interface: `Location`."""
