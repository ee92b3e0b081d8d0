"""The NumPy decoder that stands in for torch where no record is, held to torch where there is one."""

import numpy as np
import pytest
import reference
from oracles import records

from manifests import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_the_reference_are_torchs_in_every_record(family):
    case = records.read(f"text/{family}")
    compared = 0

    for group, asked in case.given["rows"].items():
        for row in case.rows(group):
            found = reference.logits(case, [*row.ids, *row.tokens[:-1]])
            assert found[len(row.ids) - 1 :].argmax(-1).tolist() == row.tokens
            if row.logits is not None:
                compared += row.logits.size
                assert np.abs(found[asked["logits"] :] - row.logits).max(initial=0) < 2e-5
    assert compared > 60_000
