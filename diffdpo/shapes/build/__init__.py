"""How the tiny models that ship with the package were trained. Nothing at run time imports this."""
