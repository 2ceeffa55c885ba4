"""Where events come from; every source hands bodies to the same intake."""
