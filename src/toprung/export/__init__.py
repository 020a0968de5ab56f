"""Export of the winner to a folder that loads without the sweep, verified before it is published."""
