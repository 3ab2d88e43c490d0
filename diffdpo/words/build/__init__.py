"""How the tiny language model that ships with the package was trained. Nothing at run time imports this."""
