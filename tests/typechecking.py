"""The type checker that conftest.py puts on every function of flint_posthoc: beartype, where an int is a float as annotations mean it."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
