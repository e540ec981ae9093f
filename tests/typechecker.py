"""What checks the annotations of tensor functions in tests: beartype, with int accepted for float as usual."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
