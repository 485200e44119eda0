"""The networks of garment transfer and the FlowWarp operator as torch sees it."""
