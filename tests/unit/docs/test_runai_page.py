"""The table of differing answers is made from the record, and each difference has its reason."""

from __future__ import annotations

from docs.make_runai_page import ABSENT, BEGIN, END, PAGE, REASONS, differences, page
from tests.support.runai_names import lacking
from tests.support.runai_package import OURS


def test_the_page_is_what_the_record_says() -> None:
    assert page() == PAGE.read_text()
    assert PAGE.read_text().count(BEGIN) == PAGE.read_text().count(END) == 1


def test_each_difference_is_on_purpose() -> None:
    assert differences().keys() == REASONS.keys()


def test_each_name_that_is_absent_is_so_on_purpose() -> None:
    assert lacking(OURS).keys() == ABSENT.keys()
