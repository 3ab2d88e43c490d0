"""What leaves the house: a tuned model in the forms that other programs open."""
