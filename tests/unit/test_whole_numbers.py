"""Whole numbers among the options of the core and the plugins: `true` is no number."""

import pytest
from option_models import MODELS, tables_of
from pydantic import BaseModel, TypeAdapter, ValidationError

TABLES = {table: None for model in MODELS.values() for table in tables_of(model)}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("written", [True, [True]], ids=str)
def test_no_option_takes_true_for_the_number_1(table: type[BaseModel], written: object) -> None:
    taking = []
    for name, field in table.model_fields.items():
        try:
            value = TypeAdapter(field.rebuild_annotation()).validate_python(written)
        except ValidationError:
            continue
        values = value if isinstance(value, tuple) else (value,)
        if any(each == 1 and not isinstance(each, bool) for each in values):
            taking.append(name)
    assert taking == []
