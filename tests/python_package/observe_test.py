"""The numbers that Python and the library must agree on."""

import re

from conftest import ROOT
from moetap import observe


def test_the_numbers_of_observe_are_those_of_the_library():
    header = (ROOT / "hooks" / "points" / "operator_schemas.h").read_text()
    constants = {name: int(value) for name, value in re.findall(r"kObserved(\w+) = (\d+);", header)}
    bits = constants.pop("Bits")
    number = observe.ModelNumber()
    assert constants.keys() == {"Begin", "End", "Abort", "Hook"}
    assert {"Begin": number.begin, "End": number.end, "Abort": number.abort, "Hook": number.hook(0)} == {
        name: (number.begin >> bits << bits) + value for name, value in constants.items()
    }
    assert number.hook(7) == number.hook(0) + 7
