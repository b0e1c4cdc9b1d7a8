"""`headrace bench`: what a request, a payload and a record cost, on your own machines or on a stack of its own."""
